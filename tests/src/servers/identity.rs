//! A private CA, and what a server shows to be who it is.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::directory::{self, User};

/// A CA that nobody trusts unasked.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A server's certificate and key, as PEM.
#[derive(Clone)]
pub struct Identity {
    certificate: String,
    key: String,
}

/// A file of CA certificates, gone when this is dropped.
pub struct Certificates(PathBuf);

impl Certificates {
    pub fn path(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(***)")
    }
}

impl Authority {
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().context("make the CA's key")?;
        Ok(Self(CertifiedIssuer::self_signed(params, key).context("make the CA")?))
    }

    /// Its certificate, for those who shall trust it.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Its certificate in a file, as SSL_CERT_FILE names one.
    pub fn file(&self) -> Result<Certificates> {
        let path = std::env::temp_dir().join(format!("sluice-ca-{}.pem", uuid::Uuid::new_v4()));
        fs::write(&path, self.pem()).context("write a CA's certificate")?;
        Ok(Certificates(path))
    }

    /// For a server that is reached as `name`: a host name or an address.
    pub fn identity(&self, name: &str) -> Result<Identity> {
        let key = KeyPair::generate().context("make a server's key")?;
        let params = CertificateParams::new([name.to_owned()]).context("name the server")?;
        let certificate = params.signed_by(&key, &self.0).context("sign the server's certificate")?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

impl Identity {
    /// For a server of our own.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>> {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes()).context("read a certificate")?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).context("read a server's key")?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("choose TLS versions")?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .context("configure TLS")?;
        Ok(Arc::new(config))
    }

    /// As `server.crt` and `server.key`, which Postgres takes only where nobody else can read it.
    pub(super) fn write(&self, directory: &Path, user: Option<User>) -> Result<()> {
        let certificate = directory.join("server.crt");
        fs::write(&certificate, &self.certificate).context("write the server's certificate")?;
        directory::give(&certificate, user)?;

        let key = directory.join("server.key");
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&key).context("make the key file")?;
        file.write_all(self.key.as_bytes()).context("write the server's key")?;
        directory::give(&key, user)
    }
}
