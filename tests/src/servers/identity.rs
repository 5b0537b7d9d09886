//! A private CA, and what a server shows to be who it is.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::directory::{self, User};

/// A CA that nobody trusts unasked.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A server's certificate and key, as PEM.
#[derive(Clone)]
pub struct Identity {
    certificate: String,
    key: String,
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

    /// For a server that is reached as `name`: a host name or an address.
    pub fn identity(&self, name: &str) -> Result<Identity> {
        let key = KeyPair::generate().context("make a server's key")?;
        let params = CertificateParams::new([name.to_owned()]).context("name the server")?;
        let certificate = params.signed_by(&key, &self.0).context("sign the server's certificate")?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

impl Identity {
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
