//! TLS for probes of HTTPS backends.
//!
//! A check with a CA file verifies the backend's certificate: chain, validity and name. Without
//! one, any certificate is accepted, because a check asks whether the backend serves, and backends
//! often have certificates that only their clients can verify. Such a check proves nothing about
//! who answered.

use std::{fmt, net::SocketAddr, path::Path, sync::Arc};

use hyper::http::uri::Authority;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::failure::Failure;
use crate::config::{HttpCheck, TlsCheck};

/// Makes a TLS session for `check` over `tcp`.
///
/// Reads the CA file anew, so that a replaced file counts from the next probe on. Sessions are not
/// resumed: each probe is a full handshake, as a new client would make it.
pub(super) async fn connect(
    tcp: TcpStream,
    target: SocketAddr,
    check: &HttpCheck,
    tls: &TlsCheck,
) -> Result<TlsStream<TcpStream>, Failure> {
    let name = server_name(target, check, tls)?;
    let config = client_config(tls.ca_file.as_deref()).await?;
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|error| Failure::Tls(error.to_string()))
}

/// The name to ask for and to verify: the configured one, else the host of the request, else the
/// target's address.
fn server_name(target: SocketAddr, check: &HttpCheck, tls: &TlsCheck) -> Result<ServerName<'static>, Failure> {
    let name = match (&tls.server_name, &check.host) {
        (Some(name), _) => name.clone(),
        (None, Some(host)) => without_port(host),
        (None, None) => return Ok(target.ip().into()),
    };
    ServerName::try_from(name.as_str())
        .map(|name| name.to_owned())
        .map_err(|_| Failure::Tls(format!("{name:?} is neither a host name nor an address")))
}

/// The host of `host:port`; an IPv6 address loses its brackets.
fn without_port(host: &str) -> String {
    host.parse::<Authority>()
        .map_or_else(|_| host.to_owned(), |authority| authority.host().trim_matches(['[', ']']).to_owned())
}

async fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::Tls(error.to_string()))?;
    let builder = match ca_file {
        Some(path) => builder.with_root_certificates(read_roots(path).await?),
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny(provider))),
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn read_roots(path: &Path) -> Result<RootCertStore, Failure> {
    let failure = |reason: &dyn fmt::Display| Failure::Tls(format!("CA file {}: {reason}", path.display()));
    let pem = tokio::fs::read(path).await.map_err(|e| failure(&e))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| failure(&e))?;
        roots.add(certificate).map_err(|e| failure(&e))?;
    }
    if roots.is_empty() {
        return Err(failure(&"holds no certificate in PEM form"));
    }
    Ok(roots)
}

/// Accepts any certificate, even one that cannot be parsed, and hence any signature by its key.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
