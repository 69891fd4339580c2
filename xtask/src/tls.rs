// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! TLS 1.3 with certificates on both sides, for the connections of `migrate`.
//!
//! [`handshake`] proves over a socket who both ends are, and [`session`] is its protocol, which is rustls'. From then on
//! [`halves`] has the keys, for a thread that reads and one that writes, and [`record`] seals and opens with them. [`words`]
//! says what went wrong. The engine sees none of it: a peer that does not prove who it is never becomes a channel.

mod halves;
mod handshake;
mod reader;
mod record;
#[cfg(test)]
mod record_test;
mod session;
#[cfg(test)]
mod test;
pub(crate) mod throwaway;
mod verifier;
pub(crate) mod words;

use core::time::Duration;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rustls::client::UnbufferedClientConnection;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use savevm_core::Cancel;

use crate::migrate::Transport;
pub(crate) use halves::{Secured, Writer};
use handshake::shake_hands;
pub(crate) use reader::Reader;
use session::{Conn, Session};
use verifier::Named;

/// How long a peer may take to prove who it is: a target that waits for its source must not wait for a stranger.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// What makes a connection a TLS connection.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Use TLS 1.3 on every connection, and show the peer this certificate (PEM, the chain behind it if there is one).
    /// Both sides use TLS, or neither
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_ca"])]
    tls_cert: Option<PathBuf>,

    /// The private key of --tls-cert (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Accept only peers whose certificate one of these authorities has signed (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_ca: Option<PathBuf>,

    /// Accept only a peer whose certificate is for this name or IP address. A source takes the host of --to by default; a
    /// target accepts any source with a certificate of --tls-ca
    #[arg(long, value_name = "NAME", requires = "tls_cert")]
    tls_name: Option<String>,
}

/// A side's certificate and whom it accepts.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    authorities: Arc<RootCertStore>,
}

/// A source's end: it connects, and knows whom it wants to meet.
pub(crate) struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// A target's end: it is connected to.
#[derive(Clone)]
pub(crate) struct Server(Arc<ServerConfig>);

impl Args {
    /// With these files, for a peer of that name.
    pub(crate) fn of(files: &throwaway::Files, peer: &str) -> Self {
        let (cert, key, ca) = (files.cert.clone(), files.key.clone(), files.ca.clone());
        Self { tls_cert: Some(cert), tls_key: Some(key), tls_ca: Some(ca), tls_name: Some(peer.to_owned()) }
    }

    /// For a source that connects to `host`, where the address names one. `None` without TLS.
    pub(crate) fn client(&self, host: Option<&str>) -> Result<Option<Client>, String> {
        let Some(identity) = self.identity()? else { return Ok(None) };
        let named = self.tls_name.as_deref().or(host);
        let named = named.ok_or("a unix socket has no host: say --tls-name, the name in the target's certificate")?;
        let name = name(named)?;
        let unusable = |error: rustls::Error| format!("the certificate cannot be used: {error}");
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_root_certificates(identity.authorities)
            .with_client_auth_cert(identity.chain, identity.key)
            .map_err(unusable)?;
        config.enable_secret_extraction = true;
        Ok(Some(Client { config: Arc::new(config), name }))
    }

    /// For a target. `None` without TLS.
    pub(crate) fn server(&self) -> Result<Option<Server>, String> {
        let Some(identity) = self.identity()? else { return Ok(None) };
        let peer = self.tls_name.as_deref().map(name).transpose()?;
        let verifier = WebPkiClientVerifier::builder_with_provider(identity.authorities, provider());
        let verifier = verifier.build().map_err(|error| format!("the authorities cannot be used: {error}"))?;
        let unusable = |error: rustls::Error| format!("the certificate cannot be used: {error}");
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(Named::around(verifier, peer))
            .with_single_cert(identity.chain, identity.key)
            .map_err(unusable)?;
        // Nothing is resumed, and a ticket that nobody reads would reset the connection at its end.
        config.send_tls13_tickets = 0;
        config.enable_secret_extraction = true;
        Ok(Some(Server(Arc::new(config))))
    }

    fn identity(&self) -> Result<Option<Identity>, String> {
        let (Some(cert), Some(key), Some(ca)) = (&self.tls_cert, &self.tls_key, &self.tls_ca) else { return Ok(None) };
        let (chain, authority_certs) = (certificates(cert)?, certificates(ca)?);
        let key = PrivateKeyDer::from_pem_file(key)
            .map_err(|error| format!("cannot read a private key from {}: {error}", key.display()))?;
        let mut authorities = RootCertStore::empty();
        for authority in authority_certs {
            let unusable = |error| format!("{} holds a certificate that is no authority: {error}", ca.display());
            authorities.add(authority).map_err(unusable)?;
        }
        Ok(Some(Identity { chain, key, authorities: Arc::new(authorities) }))
    }
}

impl Client {
    /// Proves who this is and has the peer prove that it is whom this side wants.
    pub(crate) fn connect(&self, transport: Transport, patience: Duration, cancel: &Cancel) -> io::Result<Secured> {
        let connection = UnbufferedClientConnection::new(Arc::clone(&self.config), self.name.clone());
        let connection = connection.map_err(|error| words::error(&error))?;
        shake_hands(Session::new(Conn::Client(connection)), transport, deadline(patience), cancel)
    }
}

impl Server {
    /// The same for who was connected to.
    pub(crate) fn accept(&self, transport: Transport, patience: Duration, cancel: &Cancel) -> io::Result<Secured> {
        let connection = UnbufferedServerConnection::new(Arc::clone(&self.0));
        let connection = connection.map_err(|error| words::error(&error))?;
        shake_hands(Session::new(Conn::Server(connection)), transport, deadline(patience), cancel)
    }
}

fn deadline(patience: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(patience.min(HANDSHAKE_MAX)).unwrap_or(now)
}

/// AWS-LC's algorithms, those of AES with 128-bit keys first: they cost a quarter less, and the keys live for one migration.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn name(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned()).map_err(|_| format!("'{text}' is neither a DNS name nor an IP address"))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |error| format!("cannot read certificates from {}: {error}", path.display());
    let all = CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if all.is_empty() {
        return Err(format!("there is no certificate in {}", path.display()));
    }
    Ok(all)
}
