//! The image's recipe and compose's file, as far as they can be looked at without a container
//! engine.

use super::*;

fn said_by(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

#[test]
fn hadolint_has_nothing_to_say_of_the_dockerfile() {
    let (content, said) = said_by(Command::new(tool("python/bin/hadolint")).arg(root().join("deploy/Dockerfile")));

    assert!(content, "{said}");
}

#[test]
fn the_image_is_of_this_version_and_runs_as_nobody_in_particular() {
    let recipe = read("deploy/Dockerfile");

    let last = recipe.rsplit("\nFROM ").next().unwrap();

    assert!(last.contains("\nUSER 65532:65532\n") && last.contains("\nENTRYPOINT [\"/usr/local/bin/sluice\"]\n"));
    assert!(last.contains(&format!("ARG VERSION={}\n", env!("CARGO_PKG_VERSION"))));
    let wanted = Command::new("rustc").arg("--version").output().unwrap();
    let minimum = read("Cargo.toml").lines().find_map(|line| line.strip_prefix("rust-version = ").map(str::to_owned));
    let minimum = minimum.unwrap();
    assert!(recipe.contains(&format!("FROM rust:{}-", minimum.trim_matches('"'))), "{wanted:?}");
}

#[test]
fn dclint_finds_no_fault_in_compose() {
    let mut dclint = Command::new(tool("python/bin/node"));
    dclint.arg(tool("node/node_modules/dclint/bin/dclint.cjs"));
    dclint.arg("-c").arg(root().join("tests/it/deployment/tools/dclint.json")).arg(root().join("deploy/compose.yaml"));

    let (content, said) = said_by(&mut dclint);

    assert!(content, "{said}");
}

#[test]
fn compose_runs_every_role_and_the_example_of_prometheus_scrapes_it() {
    let compose = read("deploy/compose.yaml");
    let scraped = read("deploy/prometheus/prometheus.yaml");

    for role in ROLES {
        let service = role.replace(' ', "-");
        assert!(compose.contains(&format!("\n  {service}:\n    <<: *sluice\n")), "no service {service}");
        assert!(compose.contains(&format!("command: [{}]", role.replace(' ', ", "))), "nothing runs {role}");
        assert!(scraped.contains(&format!("\"{service}:9464\"")), "Prometheus does not ask {service}");
    }
    let version = env!("CARGO_PKG_VERSION");
    for image in compose.lines().filter_map(|line| line.trim().strip_prefix("image: ")) {
        assert!(!image.contains("sluice") || image.ends_with(&format!(":{version}")), "{image}");
        assert!(image.rsplit('/').next().unwrap().contains(':') && !image.ends_with(":latest"), "{image}");
    }
}
