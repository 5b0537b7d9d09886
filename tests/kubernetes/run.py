"""`make test-kubernetes`: overlays/local in a namespace of its own on the cluster that KUBECONFIG names, users who sign up all
along, and everything that a cluster does to pods meanwhile. Ends with a table; exit code 1 if a promise was broken.

Images are what the cluster's nodes can have: SLUICE_IMAGE (sluice:0.1.0), SIMULATOR_IMAGE (sluice-evolution-sim:0.1.0), to see an
upgrade and a downgrade SLUICE_IMAGE_BEFORE, the build before, and KILLER_IMAGE (busybox:1.37), which has a shell. With kind:
docs/operating.md.
"""

import argparse
import contextlib
import json
import os
import pathlib
import secrets
import shutil
import subprocess
import sys
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
KUBECTL = str(ROOT / "target/tools/manifests/python/bin/kubectl")
WORKERS = ["worker-create-instance", "worker-configure-webhooks", "worker-verify"]
ROLES = ["relay", *WORKERS, "events"]
# How long after a disturbance an attempt that it ended is counted at the latest: a lease, and the
# rescue's next rounds.
COUNTED_WITHIN = 7

# What is read between two disturbances. What counts against a run, by class: an attempt that
# failed, or one whose worker was lost.
COUNTS = """
select json_build_object(
  'users', (select count(*) from auth.users),
  'ready', (select count(*) from public.evolution_instance_creation_queue where status = 'completed'),
  'dead', (select count(*) from sluice.dead_letter),
  'counted', (
    select coalesce(json_object_agg(class, attempts), '{}')
    from (
      select class, count(*) as attempts
      from sluice.attempt
      where outcome in ('failed', 'crashed')
      group by class
    ) as by_class
  ),
  'unpublished', (select count(*) from sluice.event where published_at is null),
  'deferred', (select count(*) from sluice.attempt where outcome = 'deferred'),
  'connections', (select count(*) from pg_stat_activity where application_name like 'sluice-%'))
"""


def by_class(counted):
    """Of attempts that count: 0, or how many of each class."""
    return ", ".join(f"{number} {name}" for name, number in sorted(counted.items())) or "0"


# Kills the processes of pods, each known by the uid of its pod, and says how many. From within
# their own pods, where they are process 1, nobody can.
KILL = """
killed=0
for process in /proc/[0-9]*; do
  { read -r name <"$process/comm"; } 2>/dev/null || continue
  case $name in sluice*) ;; *) continue ;; esac
  pod=$(tr '\\0' '\\n' <"$process/environ" | sed -n s/^K8S_POD_UID=//p)
  case " $PODS " in *" ${pod:-none} "*) kill -9 "${process##*/}" && killed=$((killed + 1)) ;; esac
done 2>/dev/null
echo "$killed"
"""


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Cluster:
    """One namespace, through kubectl, and through its proxy what is asked often."""

    def __init__(self, namespace):
        self.namespace = namespace
        self.proxy = subprocess.Popen([KUBECTL, "proxy", "--port=0"], stdout=subprocess.PIPE, text=True)
        self.address = "http://" + self.proxy.stdout.readline().split()[-1]

    def kubectl(self, *arguments, check=True, stdin=None, timeout=600):
        command = [KUBECTL, f"--namespace={self.namespace}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done

    def get(self, path):
        with urllib.request.urlopen(self.address + path, timeout=10) as answer:
            return json.load(answer)

    def deployments(self):
        items = self.get(f"/apis/apps/v1/namespaces/{self.namespace}/deployments")["items"]
        return {item["metadata"]["name"]: item for item in items}

    def pods(self, role):
        selector = f"app.kubernetes.io%2Fcomponent%3D{role}"
        items = self.get(f"/api/v1/namespaces/{self.namespace}/pods?labelSelector={selector}")["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def wait_for_rollouts(self, names):
        for name in names:
            self.kubectl("rollout", "status", f"deployment/{name}", "--timeout=300s")

    def sql(self, statement):
        """As the database's superuser, in its pod; tried until it is answered, so it has to bear being run twice."""
        deadline = time.monotonic() + 180
        while True:
            done = self.kubectl(
                "exec", "-i", "postgres-0", "--", "psql", "--host=/var/run/postgresql", "--username=postgres", "--dbname=app",
                "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1",
                check=False, stdin=statement, timeout=60,
            )  # fmt: skip
            if done.returncode == 0:
                return done.stdout.strip()
            if time.monotonic() > deadline:
                raise RuntimeError(f"psql: {done.stderr.strip()}")
            time.sleep(0.5)

    def counts(self):
        return json.loads(self.sql(COUNTS))

    def api(self):
        return self.get(f"/api/v1/namespaces/{self.namespace}/services/evolution:http/proxy/_sim/stats")


class Watch(threading.Thread):
    """How long each role had no ready pod, as Kubernetes saw it."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.cluster, self.stopped = cluster, threading.Event()
        self.without = dict.fromkeys(ROLES, 0.0)

    def run(self):
        before = time.monotonic()
        while not self.stopped.wait(0.2):
            try:
                deployments = self.cluster.deployments()
            except OSError:
                continue
            now = time.monotonic()
            for role in ROLES:
                if not deployments[f"sluice-{role}"]["status"].get("readyReplicas"):
                    self.without[role] += now - before
            before = now

    def taken(self):
        return dict(self.without)


class SignUps(threading.Thread):
    """So many users a second, until it is told to stop."""

    def __init__(self, cluster, rate):
        super().__init__(daemon=True)
        self.cluster, self.rate, self.signed_up = cluster, rate, 0
        self.stopped, self.broken = threading.Event(), None

    def run(self):
        began = time.monotonic()
        try:
            while not self.stopped.is_set():
                due = int((time.monotonic() - began) * self.rate)
                if due > self.signed_up:
                    self.sign_up(due)
                self.stopped.wait(1)
        except Exception as error:  # said by the main thread
            self.broken = error

    def sign_up(self, up_to):
        names = f"select 'user' || n || '@example.org' from generate_series({self.signed_up + 1}, {up_to}) as n"
        self.cluster.sql(f"insert into auth.users (email) {names} on conflict do nothing")
        self.signed_up = up_to


class Manifests:
    """overlays/local with other names, rendered anew for each image and setting."""

    def __init__(self, cluster, simulator):
        self.cluster, self.simulator = cluster, simulator
        self.folder = ROOT / "target/manifests" / cluster.namespace
        self.folder.mkdir(parents=True)

    def apply(self, image, settings=None, migrates=True):
        name, _, tag = image.rpartition(":")
        simulator, _, simulator_tag = self.simulator.rpartition(":")
        job = f"sluice-migrate-{tag}" if tag else "sluice-migrate"
        change = [
            {"target": {"kind": "Namespace"}, "patch": json.dumps([
                {"op": "replace", "path": "/metadata/name", "value": self.cluster.namespace}])},
            {"target": {"kind": "Job"}, "patch": json.dumps([
                {"op": "replace", "path": "/metadata/name", "value": job}] if migrates else [])},
        ]  # fmt: skip
        if not migrates:
            change[1]["patch"] = "$patch: delete\napiVersion: batch/v1\nkind: Job\nmetadata: {name: any}"
        kustomization = {
            "namespace": self.cluster.namespace,
            "resources": ["../../../deploy/kubernetes/overlays/local"],
            "images": [
                {"name": "sluice", "newName": name or image, "newTag": tag},
                {"name": "sluice-evolution-sim", "newName": simulator, "newTag": simulator_tag},
            ],
            "patches": change,
        }
        if settings:
            kustomization["configMapGenerator"] = [{
                "name": "sluice-settings", "namespace": "sluice", "behavior": "merge",
                "literals": [f"{name}={value}" for name, value in settings.items()],
            }]  # fmt: skip
        (self.folder / "kustomization.yaml").write_text(json.dumps(kustomization))
        self.cluster.kubectl("apply", "-k", str(self.folder))
        return job

    def remove(self):
        shutil.rmtree(self.folder)


class Test:
    def __init__(self, options):
        self.options = options
        self.cluster = Cluster("sluice-test-" + secrets.token_hex(3))
        self.manifests = Manifests(self.cluster, options.simulator)
        self.rows, self.broken, self.skipped = [], [], []
        self.killers = f"{self.cluster.namespace}-killers"
        self.deployments = [f"sluice-{role}" for role in ROLES]

    # --- From nothing to ready -------------------------------------------------------------------------------------

    def start(self):
        image = self.options.before or self.options.image
        began = time.monotonic()
        job = self.manifests.apply(image)
        self.cluster.kubectl("rollout", "status", "statefulset/postgres", "--timeout=300s")
        self.cluster.kubectl("wait", f"job/{job}", "--for=condition=complete", "--timeout=300s")
        self.cluster.wait_for_rollouts([*self.deployments, "redis", "rabbitmq", "evolution"])
        self.from_nothing = time.monotonic() - began
        restarts = sum(
            status["restartCount"]
            for role in ROLES
            for pod in self.cluster.pods(role)
            for status in pod["status"]["containerStatuses"]
        )
        say(f"ready {self.from_nothing:.0f} s after `kubectl apply -k`, {restarts} restarts on the way")
        self.expect(restarts == 0, f"{restarts} restarts before everything was ready")
        self.manifests.apply(image)  # a second time changes nothing

    # --- What a cluster does ---------------------------------------------------------------------------------------

    def restart(self):
        self.cluster.kubectl("rollout", "restart", *[f"deployment/{name}" for name in self.deployments])
        self.cluster.wait_for_rollouts(self.deployments)

    def scale(self):
        for replicas in (6, 1, 2):
            workers = [f"deployment/sluice-{worker}" for worker in WORKERS]
            self.cluster.kubectl("scale", *workers, f"--replicas={replicas}")
            self.cluster.wait_for_rollouts([f"sluice-{worker}" for worker in WORKERS])
            time.sleep(3)

    def delete(self):
        self.delete_one_of_each()

    def force(self):
        self.delete_one_of_each("--force", "--grace-period=0")

    def hurry(self):
        self.delete_one_of_each("--grace-period=1")

    def kill(self):
        for which in (0, -1):
            pods = [self.cluster.pods(role)[which] for role in ROLES]
            refused = self.kill_processes(pods)
            if refused:
                return refused
            for pod in pods:
                self.wait_for_restart(pod)

    def kill_processes(self, pods):
        """SIGKILL, without any grace, for the process of each of these pods. Answers why, where the cluster lets nobody."""
        uids = {node: [] for node in (pod["spec"]["nodeName"] for pod in pods)}
        for pod in pods:
            uids[pod["spec"]["nodeName"]].append(pod["metadata"]["uid"])
        # Pods of kind are processes of this machine.
        variables = {**os.environ, "PODS": " ".join(sum(uids.values(), []))}
        killed = int(subprocess.run(["sh", "-c", KILL], env=variables, capture_output=True, text=True).stdout)
        if killed == 0:
            try:
                killed = sum(self.kill_on(node, " ".join(of_node)) for node, of_node in uids.items())
            except RuntimeError as error:
                return str(error)
        if killed != len(pods):
            raise RuntimeError(f"{killed} processes of {len(pods)} pods were killed")

    def kill_on(self, node, uids):
        """The same by a privileged pod that sees the processes of its node, in a namespace where it may be."""
        privileged = {"pod-security.kubernetes.io/enforce": "privileged"}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.killers, "labels": privileged}}
        name = f"killer-{secrets.token_hex(3)}"
        container = {
            "name": "killer", "image": self.options.killer, "command": ["sh", "-c", KILL],
            "env": [{"name": "PODS", "value": uids}], "securityContext": {"privileged": True, "runAsUser": 0},
        }  # fmt: skip
        spec = {"nodeName": node, "hostPID": True, "restartPolicy": "Never", "containers": [container]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        here = f"--namespace={self.killers}"
        self.cluster.kubectl(here, "apply", "-f", "-", stdin=json.dumps(namespace))
        self.cluster.kubectl(here, "wait", "serviceaccount/default", "--for=create", "--timeout=60s")
        self.cluster.kubectl(here, "apply", "-f", "-", stdin=json.dumps(pod))
        succeeded = "--for=jsonpath={.status.phase}=Succeeded"
        self.cluster.kubectl(here, "wait", f"pod/{name}", succeeded, "--timeout=120s")
        return int(self.cluster.kubectl(here, "logs", name).stdout)

    def wait_for_restart(self, pod):
        name, before = pod["metadata"]["name"], pod["status"]["containerStatuses"][0]["restartCount"]
        path, deadline = f"/api/v1/namespaces/{self.cluster.namespace}/pods/{name}", time.monotonic() + 120
        while time.monotonic() < deadline:
            status = self.cluster.get(path)["status"]["containerStatuses"][0]
            if status["restartCount"] > before and status["ready"]:
                return
            time.sleep(0.2)
        raise RuntimeError(f"{name} is not back 120 s after its process was killed")

    def delete_one_of_each(self, *how):
        for _ in range(2):
            pods = [self.cluster.pods(role)[0]["metadata"]["name"] for role in ROLES]
            self.cluster.kubectl("delete", "pod", *pods, *how)
            self.cluster.wait_for_rollouts(self.deployments)

    def drain(self):
        nodes = [item["metadata"]["name"] for item in self.cluster.get("/api/v1/nodes")["items"]]
        if len(nodes) < 2:
            return "the cluster has one node"
        where = {pod["spec"]["nodeName"] for role in ROLES for pod in self.cluster.pods(role)}
        node = next(node for node in nodes if node in where)
        try:
            self.cluster.kubectl(
                "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=240s",
                "--pod-selector=app.kubernetes.io/part-of=sluice,app.kubernetes.io/instance=local",
            )  # fmt: skip
            self.cluster.wait_for_rollouts(self.deployments)
        finally:
            self.cluster.kubectl("uncordon", node)

    def redis(self):
        self.cluster.kubectl("delete", "pod", "--selector=app.kubernetes.io/name=redis")
        self.cluster.wait_for_rollouts(["redis", *self.deployments])

    def postgres(self):
        self.cluster.kubectl("delete", "pod", "postgres-0")
        self.cluster.kubectl("rollout", "status", "statefulset/postgres", "--timeout=300s")
        self.cluster.wait_for_rollouts(self.deployments)

    def rabbitmq(self):
        self.cluster.kubectl("delete", "pod", "--selector=app.kubernetes.io/name=rabbitmq")
        self.cluster.wait_for_rollouts(["rabbitmq", *self.deployments])

    def settings(self):
        self.manifests.apply(self.options.before or self.options.image, {"RELAY_BATCH": "150"})
        self.cluster.wait_for_rollouts(self.deployments)

    def upgrade(self):
        if not self.options.before:
            return "no SLUICE_IMAGE_BEFORE"
        job = self.manifests.apply(self.options.image)
        self.cluster.kubectl("wait", f"job/{job}", "--for=condition=complete", "--timeout=300s")
        self.cluster.wait_for_rollouts(self.deployments)

    def downgrade(self):
        if not self.options.before:
            return "no SLUICE_IMAGE_BEFORE"
        self.manifests.apply(self.options.before, migrates=False)
        self.cluster.wait_for_rollouts(self.deployments)

    # What happens, whether pods go in good order, so that no attempt may be counted, and whether a
    # role may be without a ready pod: who waits for Postgres, Redis or RabbitMQ says so. A pod that
    # is deleted by force is gone for Kubernetes at once, and its process has its whole grace; one
    # that is given a second is killed after two, the kubelet's least: what takes longer is lost.
    # What a process worked on when it is killed has lost its worker: it is counted, and made again.
    DISTURBANCES = [
        ("undisturbed", lambda self: time.sleep(10), True, False),
        ("every Deployment restarted", restart, True, False),
        ("workers scaled 2 → 6 → 1 → 2", scale, True, False),
        ("a pod of each role deleted, twice", delete, True, False),
        ("a pod of each role deleted by force, twice", force, False, False),
        ("a pod of each role given 1 s, twice", hurry, False, False),
        ("a process of each role killed, twice", kill, False, False),
        ("a node drained", drain, True, False),
        ("the Redis pod deleted", redis, True, True),
        ("the RabbitMQ pod deleted", rabbitmq, True, True),
        ("the Postgres pod deleted", postgres, False, True),
        ("a setting changed", settings, True, False),
        ("upgrade from the build before", upgrade, True, False),
        ("downgrade of the pods", downgrade, True, False),
    ]

    def disturb(self, watch, what, how, in_order, may_be_unready):
        say(what)
        before, without, began = self.cluster.counts(), watch.taken(), time.monotonic()
        skipped = how(self)
        if skipped:
            self.skipped.append(f"{what}: {skipped}")
            return
        took = time.monotonic() - began
        time.sleep(COUNTED_WITHIN)
        after = self.cluster.counts()
        longest = max(watch.taken()[role] - without[role] for role in ROLES)
        more = {name: after[name] - before[name] for name in ("deferred", "ready")}
        counted = {name: number - before["counted"].get(name, 0) for name, number in after["counted"].items()}
        counted = {name: number for name, number in counted.items() if number}
        self.rows.append({"what": what, "seconds": took, "unready": longest, "counted": counted, **more})
        may_count = set() if in_order else {"worker_lost"}
        self.expect(set(counted) <= may_count, f"{what}: attempts were counted: {by_class(counted)}")
        if not may_be_unready:
            self.expect(longest < 1, f"{what}: a role had no ready pod for {longest:.1f} s")

    # --- The whole -------------------------------------------------------------------------------------------------

    def run(self):
        self.start()
        watch, sign_ups = Watch(self.cluster), SignUps(self.cluster, self.options.rate)
        watch.start()
        sign_ups.start()
        for what, how, in_order, may_be_unready in self.DISTURBANCES:
            if self.options.only and not any(word in what for word in self.options.only):
                continue
            self.disturb(watch, what, how, in_order, may_be_unready)
        self.sign_up_the_rest(sign_ups)
        self.wait_for_everybody(sign_ups.signed_up)
        watch.stopped.set()
        self.judge(sign_ups.signed_up)

    def sign_up_the_rest(self, sign_ups):
        sign_ups.stopped.set()
        sign_ups.join()
        if sign_ups.broken:
            raise sign_ups.broken
        if sign_ups.signed_up < self.options.users:
            sign_ups.sign_up(self.options.users)

    def wait_for_everybody(self, users):
        deadline, counts = time.monotonic() + 300, {}
        while time.monotonic() < deadline:
            counts = self.cluster.counts()
            if counts["ready"] + counts["dead"] >= users and counts["unpublished"] == 0:
                return
            time.sleep(1)
        say(f"not everybody is ready and announced after 300 s: {counts}")

    def judge(self, users):
        self.counts, api = self.cluster.counts(), self.cluster.api()
        made = api["instances_made"].values()
        self.verdict = {
            "users": users,
            "ready": self.counts["ready"],
            "lost": users - self.counts["ready"] - self.counts["dead"],
            "dead letters": self.counts["dead"],
            "instances": len(api["instances"]),
            "instances made twice": sum(1 for times in made if times > 1),
            "creates that met another": api["overlaps"],
            "attempts counted": by_class(self.counts["counted"]),
            "attempts deferred": self.counts["deferred"],
            "events not published": self.counts["unpublished"],
        }
        self.expect(self.verdict["ready"] == users, f"{users - self.verdict['ready']} users are not ready")
        self.expect(self.verdict["instances"] == users, f"{self.verdict['instances']} instances for {users} users")
        for none in ("instances made twice", "creates that met another", "dead letters", "events not published"):
            self.expect(self.verdict[none] == 0, f"{none}: {self.verdict[none]}")

    def expect(self, kept, otherwise):
        if not kept:
            self.broken.append(otherwise)
            say(f"BROKEN: {otherwise}")

    def table(self):
        yield "| Disturbance | took, s | ready meanwhile | attempts counted | deferred | a role without a ready pod, s |"
        yield "|---|---:|---:|---:|---:|---:|"
        for row in self.rows:
            yield (
                f"| {row['what']} | {row['seconds']:.0f} | {row['ready']} | {by_class(row['counted'])} "
                f"| {row['deferred']} | {row['unready']:.1f} |"
            )
        yield ""
        yield ", ".join(f"{name}: {value}" for name, value in self.verdict.items())
        for skipped in self.skipped:
            yield f"left out: {skipped}"

    def remove(self):
        for namespace in (self.cluster.namespace, self.killers):
            self.cluster.kubectl("delete", "namespace", namespace, "--wait=false", "--ignore-not-found", check=False)
        with contextlib.suppress(FileNotFoundError):
            self.manifests.remove()
        self.cluster.proxy.terminate()
        self.cluster.proxy.wait()


def read_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=2000, help="sign up at least so many (default 2000)")
    parser.add_argument("--rate", type=float, default=10, help="sign-ups a second (default 10)")
    parser.add_argument("--only", action="append", metavar="WORD", help="only disturbances whose name has this word")
    parser.add_argument("--keep", action="store_true", help="leave the namespace, to look around")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    options = parser.parse_args()
    options.image = os.environ.get("SLUICE_IMAGE", "sluice:0.1.0")
    options.before = os.environ.get("SLUICE_IMAGE_BEFORE")
    options.simulator = os.environ.get("SIMULATOR_IMAGE", "sluice-evolution-sim:0.1.0")
    options.killer = os.environ.get("KILLER_IMAGE", "busybox:1.37")
    for image in filter(None, (options.image, options.before, options.simulator)):
        if ":" not in image.rpartition("/")[2]:
            parser.error(f"the image {image} says no version: name one, {image}:VERSION")
    if "KUBECONFIG" not in os.environ:
        parser.error("KUBECONFIG is not set: name the file that leads to a cluster for tests")
    return options


def main():
    options = read_options()
    test = Test(options)
    try:
        test.run()
    finally:
        if not options.keep:
            test.remove()
        else:
            test.cluster.proxy.terminate()
            say(f"left: namespace {test.cluster.namespace}")
    if options.json:
        print(json.dumps({"rows": test.rows, "verdict": test.verdict, "broken": test.broken, "skipped": test.skipped}))
    else:
        print("\n".join(test.table()))
    return 1 if test.broken else 0


if __name__ == "__main__":
    sys.exit(main())
