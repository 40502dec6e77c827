//! The one TLS configuration: rustls with ring, HTTP/1.1 and where asked for HTTP/2, Mozilla's roots and the caller's.

use batchwright_core::{Error, ErrorKind, Result};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::sync::Arc;

/// Builds the configuration without touching the process-wide provider, which belongs to the program.
///
/// # Errors
/// `ConfigInvalid` where a PEM text holds no certificate or one that cannot be a root.
pub(crate) fn config(extra_roots: &[Vec<u8>], http2: bool) -> Result<ClientConfig> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    for pem in extra_roots {
        let mut found = false;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|_| fault("is not readable as PEM"))?;
            roots
                .add(certificate)
                .map_err(|_| fault("has a certificate that cannot be a root"))?;
            found = true;
        }
        if !found {
            return Err(fault("has no certificate"));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(ErrorKind::Unexpected, format!("set up TLS: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if http2 {
        config.alpn_protocols.insert(0, b"h2".to_vec());
    }
    Ok(config)
}

fn fault(what: &str) -> Error {
    Error::new(
        ErrorKind::ConfigInvalid,
        format!("use the extra CA file: it {what}"),
    )
}
