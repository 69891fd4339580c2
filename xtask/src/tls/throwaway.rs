// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Certificates for one run, of an authority that nobody else knows.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

/// Signs certificates; its key is never written.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::default();
        // Authorities are told apart by their names first.
        let key = KeyPair::generate()?;
        let number: String = key.public_key_raw().iter().skip(1).take(8).map(|byte| format!("{byte:02x}")).collect();
        params.distinguished_name.push(DnType::CommonName, format!("savevm throwaway {number}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        CertifiedIssuer::self_signed(params, key).map(Self)
    }

    /// Its own certificate, as PEM.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a name and its key, both as PEM; `change` may spoil it.
    pub(crate) fn issue(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<(String, String), rcgen::Error> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        change(&mut params);
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &self.0)?.pem(), key.serialize_pem()))
    }
}

/// The files of one side.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) ca: PathBuf,
}

impl Files {
    /// Writes a certificate for `name`, its key and the authority's certificate into a folder.
    pub(crate) fn write(folder: &Path, authority: &Authority, name: &str) -> Result<Self, String> {
        Self::write_changed(folder, authority, authority, name, |_| ())
    }

    /// The same, of one authority, for a side that trusts another.
    pub(crate) fn write_changed(
        folder: &Path,
        authority: &Authority,
        trusted: &Authority,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<Self, String> {
        let failed = |error: rcgen::Error| format!("cannot make a certificate for {name}: {error}");
        let (cert, key) = authority.issue(name, change).map_err(failed)?;
        let files = Self { cert: folder.join("cert.pem"), key: folder.join("key.pem"), ca: folder.join("ca.pem") };
        let write = |path: &Path, text: &str| {
            fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
        };
        fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        write(&files.cert, &cert)?;
        write(&files.key, &key)?;
        write(&files.ca, &trusted.pem())?;
        Ok(files)
    }

    /// As the options of `migrate`.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let pairs = [("--tls-cert", &self.cert), ("--tls-key", &self.key), ("--tls-ca", &self.ca)];
        pairs.into_iter().flat_map(|(option, path)| [option.to_owned(), path.display().to_string()]).collect()
    }
}
