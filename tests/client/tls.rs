//! Which certificates the client trusts. SSL_CERT_FILE is read from the environment, so each of these runs the test that
//! it is about in a process of its own.

use std::{path::Path, process::Command, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer};
use sluice::evolution::{Client, OptionsError};
use tokio_rustls::TlsAcceptor;
use workflows::evolution::{ErrorKind, Evolution};

use crate::{
    options,
    server::{Server, json},
};

const VALID: &str = r#"{"status":200,"message":"Credentials are valid"}"#;

/// A server with a certificate of a private CA, and that CA's certificate as PEM.
async fn private_server() -> (Server, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    let server = Server::start_tls([json(200, VALID)], TlsAcceptor::from(Arc::new(config))).await;
    (server, authority.pem())
}

/// Runs one of the ignored tests below in a process of its own and asserts that it passes.
async fn run_alone(test: &str, url: &str, certificates: &Path) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let test = format!("tls::{test}");
    command.args(["--exact", &test, "--ignored"]).env("URL_UNDER_TEST", url).env("SSL_CERT_FILE", certificates);
    command.env_remove("SSL_CERT_DIR");
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn file(content: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("sluice-ca-{}.pem", uuid::Uuid::new_v4()));
    std::fs::write(&path, content).unwrap();
    path
}

fn client() -> Result<Client, OptionsError> {
    Client::new(options(&std::env::var("URL_UNDER_TEST").unwrap()))
}

#[tokio::test]
async fn a_private_ca_is_trusted_where_ssl_cert_file_names_it() {
    let (server, authority) = private_server().await;
    let authority = file(&authority);

    run_alone("the_server_is_trusted", &format!("https://localhost:{}", server.address.port()), &authority).await;

    assert_eq!(server.requests().len(), 1);
    std::fs::remove_file(authority).unwrap();
}

#[tokio::test]
async fn a_private_ca_is_not_trusted_unasked() {
    let (server, _) = private_server().await;
    let (_, another) = private_server().await;
    let another = file(&another);

    run_alone("the_server_is_not_trusted", &format!("https://localhost:{}", server.address.port()), &another).await;

    assert_eq!(server.requests().len(), 0, "the key went to a server that is not trusted");
    std::fs::remove_file(another).unwrap();
}

#[tokio::test]
async fn without_any_certificates_http_works_and_https_says_what_to_do() {
    let server = Server::start([json(200, VALID)]).await;
    let none = file("");

    run_alone("http_needs_no_certificates", &server.url(), &none).await;
    run_alone("https_asks_for_certificates", "https://localhost:1", &none).await;

    std::fs::remove_file(none).unwrap();
}

#[tokio::test]
#[ignore = "needs an environment of its own: run by a_private_ca_is_trusted_where_ssl_cert_file_names_it"]
async fn the_server_is_trusted() {
    client().unwrap().verify_creds().await.unwrap();
}

#[tokio::test]
#[ignore = "needs an environment of its own: run by a_private_ca_is_not_trusted_unasked"]
async fn the_server_is_not_trusted() {
    let error = client().unwrap().verify_creds().await.unwrap_err();

    assert!(matches!(&error.kind, ErrorKind::Unreachable(why) if why.contains("certificate")), "{error}");
}

#[tokio::test]
#[ignore = "needs an environment of its own: run by without_any_certificates_http_works_and_https_says_what_to_do"]
async fn http_needs_no_certificates() {
    client().unwrap().verify_creds().await.unwrap();
}

#[tokio::test]
#[ignore = "needs an environment of its own: run by without_any_certificates_http_works_and_https_says_what_to_do"]
async fn https_asks_for_certificates() {
    let Err(error) = client() else { panic!("a client without certificates") };

    assert!(error.to_string().contains("SSL_CERT_FILE"), "{error}");
}
