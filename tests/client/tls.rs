//! Which certificates the client trusts. SSL_CERT_FILE is read from the environment, so each of
//! these asks in a process of its own: the program `verify-creds`.

use std::{path::Path, process::Command, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use crate::server::{Server, json};

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

/// What a process of its own, which trusts these certificates alone, says of the API there: whether
/// it went well, and the text.
async fn asked(url: &str, certificates: &Path) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_verify-creds"));
    command.arg(url).env("SSL_CERT_FILE", certificates).env_remove("SSL_CERT_DIR");
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn file(content: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("sluice-ca-{}.pem", uuid::Uuid::new_v4()));
    std::fs::write(&path, content).unwrap();
    path
}

#[tokio::test]
async fn a_private_ca_is_trusted_where_ssl_cert_file_names_it() {
    let (server, authority) = private_server().await;
    let authority = file(&authority);

    let (well, said) = asked(&format!("https://localhost:{}", server.address.port()), &authority).await;

    assert!(well, "{said}");
    assert_eq!(server.requests().len(), 1);
    std::fs::remove_file(authority).unwrap();
}

#[tokio::test]
async fn a_private_ca_is_not_trusted_unasked() {
    let (server, _) = private_server().await;
    let (_, another) = private_server().await;
    let another = file(&another);

    let (well, said) = asked(&format!("https://localhost:{}", server.address.port()), &another).await;

    assert!(!well && said.contains("could not be sent") && said.contains("certificate"), "{said}");
    assert_eq!(server.requests().len(), 0, "the key went to a server that is not trusted");
    std::fs::remove_file(another).unwrap();
}

#[tokio::test]
async fn without_any_certificates_http_works_and_https_says_what_to_do() {
    let server = Server::start([json(200, VALID)]).await;
    let none = file("");

    let (http_is_well, http) = asked(&server.url(), &none).await;
    let (https_is_well, https) = asked("https://localhost:1", &none).await;

    assert!(http_is_well, "{http}");
    assert!(!https_is_well && https.contains("SSL_CERT_FILE"), "{https}");
    std::fs::remove_file(none).unwrap();
}
