//! TLS to Postgres and Redis with the certificates of a private CA. Each client reads SSL_CERT_FILE
//! from its environment, so the program itself is what is run.

use tests::servers::{Authority, Certificates, Postgres, Redis, postgres, redis};

use crate::program::{run, said};

/// What `sluice migrate --check` comes to: 3 where it reached the database, which is empty.
async fn check(url: &str, certificates: &Certificates) -> (Option<i32>, String) {
    let output = run(&["migrate", "--check"], &[("DATABASE_URL", url), ("SSL_CERT_FILE", certificates.path())]).await;
    (output.status.code(), said(&output))
}

#[tokio::test]
async fn postgres_is_believed_only_with_a_certificate_of_a_trusted_ca_for_its_name() {
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    let (trusted, strange) = (authority.file().unwrap(), stranger.file().unwrap());
    let options = postgres::Options::default().tls(authority.identity("localhost").unwrap());
    let server = Postgres::start(options).await.unwrap();
    let by_address = format!("{}?sslmode=verify-full", server.url("postgres"));
    let by_name = by_address.replace("127.0.0.1", "localhost");
    let by_file = format!("{by_name}&sslrootcert={}", trusted.path());

    let (known, by_its_file) = (check(&by_name, &trusted).await, check(&by_file, &strange).await);
    let (unknown, misnamed) = (check(&by_name, &strange).await, check(&by_address, &trusted).await);

    assert_eq!(known.0, Some(3), "SSL_CERT_FILE is not honoured: {}", known.1);
    assert_eq!(by_its_file.0, Some(3), "sslrootcert is not honoured: {}", by_its_file.1);
    for (code, said) in [unknown, misnamed] {
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("certificate"), "{said}");
    }
}

#[tokio::test]
async fn postgres_without_tls_is_refused_where_the_address_asks_for_it() {
    let authority = Authority::new().unwrap().file().unwrap();
    let server = Postgres::start(postgres::Options::default()).await.unwrap();

    let (code, said) = check(&format!("{}?sslmode=verify-full", server.url("postgres")), &authority).await;

    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("TLS"), "{said}");
}

/// A Redis that a relay refuses as soon as it can ask it something, and how a relay that believes
/// `certificates` ends.
#[tokio::test]
async fn redis_is_believed_only_with_a_certificate_of_a_trusted_ca() {
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    let (trusted, strange) = (authority.file().unwrap(), stranger.file().unwrap());
    let options = redis::Options::default().maxmemory_policy("allkeys-lru").password("hunter2");
    let server = Redis::start(options.tls(authority.identity("localhost").unwrap())).await.unwrap();
    let url = format!("rediss://:hunter2@localhost:{}", server.tls_port().unwrap());
    // Refused at once, after Redis was looked at.
    let closed = tests::servers::shared().await.postgres.url_as("nobody", "wrong", "postgres");
    let ask = async |certificates: &Certificates| {
        let variables = [
            ("DATABASE_URL", closed.as_str()),
            ("REDIS_URL", &url),
            ("SSL_CERT_FILE", certificates.path()),
            ("EVOLUTION_API_BASE_URL", "http://127.0.0.1:9"),
        ];
        said(&run(&["relay"], &variables).await)
    };

    let (known, unknown) = (ask(&trusted).await, ask(&strange).await);

    assert!(known.contains("maxmemory-policy is allkeys-lru"), "{known}");
    assert!(unknown.contains("no work moves until Redis answers"), "{unknown}");
    assert!(unknown.contains("does not let us in"), "{unknown}");
    assert!(!known.contains("hunter2") && !unknown.contains("hunter2"), "{known}{unknown}");
}
