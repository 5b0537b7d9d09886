"""Renders kustomizations and holds them strictly against Kubernetes' schemas. Prints, as JSON by folder, the documents and what
does not fit. Resources of other programs (KEDA, operators) are only read here.

    look.py KUBECTL VERSION,VERSION FOLDER…
"""

import json
import subprocess
import sys

import kubernetes_validate
import yaml


def look(kubectl, versions, folder):
    rendered = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True)
    if rendered.returncode != 0:
        return {"documents": [], "problems": [f"does not render: {rendered.stderr.strip()}"]}
    documents = list(yaml.load_all(rendered.stdout, Loader=yaml.CSafeLoader))
    problems = [
        f"{document['kind']} {document['metadata']['name']}, Kubernetes {version}: {problem}"
        for version in versions
        for document in documents
        if is_kubernetes_own(document)
        for problem in problems_of(document, version)
    ]
    return {"documents": documents, "problems": problems}


def is_kubernetes_own(document):
    group = document["apiVersion"].rpartition("/")[0]
    return "." not in group or group.endswith(".k8s.io")


def problems_of(document, version):
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{error.message} at {'.'.join(str(part) for part in error.path)}"
    except kubernetes_validate.SchemaNotFoundError as error:
        yield f"has no such kind: {error}"


kubectl, versions, *folders = sys.argv[1:]
print(json.dumps({folder: look(kubectl, versions.split(","), folder) for folder in folders}))
