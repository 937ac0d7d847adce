//! TLS configurations out of the policy's PEM texts: towards clients and towards the upstream, with ring.
//!
//! The loader builds them to find problems before a policy is in force; workers are handed the built `Arc`s. A new
//! certificate is in force for the next connection; open ones keep theirs. Never reads a file, never trusts less than
//! it was told to: there is no switch that turns verification off.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::policy::snapshot::{ListenerTls, Upstream, UpstreamProtocol};

/// Why TLS material cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsProblem {
    /// No certificate in the text that should hold some.
    NoCertificate(Holder),
    /// A certificate's PEM is damaged.
    BadCertificate(Holder, String),
    /// No usable private key in its text.
    NoKey(Holder, String),
    /// Key and certificate do not belong together, or are of a kind that is not supported.
    KeyRefused(Holder, String),
    /// The client CA cannot be used.
    ClientCaRefused(String),
    /// The name to verify the upstream by is neither a host name nor an address.
    BadServerName(Box<str>),
    /// The system has no certificate authorities.
    NoSystemRoots(String),
    /// The provider refuses its own defaults.
    Unsupported(String),
}

/// Whose text is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The listener's chain or key.
    Listener,
    /// The CA that vouches for clients.
    ClientCa,
    /// The CA that vouches for the upstream.
    UpstreamCa,
    /// The gate's own certificate or key towards the upstream.
    UpstreamClient,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Holder::Listener => "the listener's",
            Holder::ClientCa => "the client CA's",
            Holder::UpstreamCa => "the upstream CA's",
            Holder::UpstreamClient => "the upstream client's",
        })
    }
}

impl fmt::Display for TlsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsProblem::NoCertificate(whose) => write!(
                f,
                "{whose} file holds no certificate; it must have a -----BEGIN CERTIFICATE----- block"
            ),
            TlsProblem::BadCertificate(whose, why) => {
                write!(f, "{whose} certificate cannot be read ({why}); export it again as PEM")
            }
            TlsProblem::NoKey(whose, why) => write!(
                f,
                "{whose} private key cannot be read ({why}); it must be an unencrypted PKCS#8, PKCS#1 or SEC1 PEM block"
            ),
            TlsProblem::KeyRefused(whose, why) => write!(
                f,
                "{whose} key and certificate cannot be used together ({why}); give the key that the certificate was issued for"
            ),
            TlsProblem::ClientCaRefused(why) => {
                write!(f, "the client CA cannot be used ({why}); give a CA certificate, not a leaf")
            }
            TlsProblem::BadServerName(name) => {
                write!(
                    f,
                    "`{name}` is neither a host name nor an address; set the upstream's server name"
                )
            }
            TlsProblem::NoSystemRoots(why) => write!(
                f,
                "the system has no certificate authorities ({why}); install ca-certificates or name a CA for the upstream"
            ),
            TlsProblem::Unsupported(why) => {
                write!(
                    f,
                    "this build cannot set TLS up ({why}); that is a mistake of ours, please report it"
                )
            }
        }
    }
}

impl std::error::Error for TlsProblem {}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(pem: &[u8], whose: Holder) -> Result<Vec<CertificateDer<'static>>, TlsProblem> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsProblem::BadCertificate(whose, error.to_string()))?;
    if found.is_empty() { Err(TlsProblem::NoCertificate(whose)) } else { Ok(found) }
}

fn private_key(pem: &[u8], whose: Holder) -> Result<PrivateKeyDer<'static>, TlsProblem> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| TlsProblem::NoKey(whose, error.to_string()))
}

fn roots(pem: &[u8], whose: Holder) -> Result<RootCertStore, TlsProblem> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, whose)? {
        roots
            .add(certificate)
            .map_err(|error| TlsProblem::BadCertificate(whose, error.to_string()))?;
    }
    Ok(roots)
}

/// TLS towards clients: 1.2 and 1.3, `h2` before `http/1.1`, tickets instead of a session table that workers would share.
pub fn server_config(tls: &ListenerTls) -> Result<Arc<ServerConfig>, TlsProblem> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsProblem::Unsupported(error.to_string()))?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let roots = Arc::new(roots(pem, Holder::ClientCa)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(|error| TlsProblem::ClientCaRefused(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = certificates(&tls.chain, Holder::Listener)?;
    let key = private_key(&tls.key, Holder::Listener)?;
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| TlsProblem::KeyRefused(Holder::Listener, error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::ring::Ticketer::new()
        .map_err(|error| TlsProblem::Unsupported(error.to_string()))?;
    Ok(Arc::new(config))
}

/// TLS towards the upstream, which is verified by its own CA or by the system's.
pub fn client_config(upstream: &Upstream) -> Result<Arc<ClientConfig>, TlsProblem> {
    server_name(upstream)?;
    let tls = &upstream.tls;
    let trusted = match &tls.ca {
        Some(pem) => roots(pem, Holder::UpstreamCa)?,
        None => system_roots()?,
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsProblem::Unsupported(error.to_string()))?
        .with_root_certificates(trusted);
    let mut config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = certificates(chain, Holder::UpstreamClient)?;
            let key = private_key(key, Holder::UpstreamClient)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                TlsProblem::KeyRefused(Holder::UpstreamClient, error.to_string())
            })?
        }
    };
    config.alpn_protocols = match upstream.protocol {
        UpstreamProtocol::Http1 => vec![b"http/1.1".to_vec()],
        UpstreamProtocol::Http2 => vec![b"h2".to_vec()],
    };
    Ok(Arc::new(config))
}

fn system_roots() -> Result<RootCertStore, TlsProblem> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or("none found".to_owned(), ToString::to_string);
        return Err(TlsProblem::NoSystemRoots(why));
    }
    Ok(roots)
}

/// The name that is sent and verified.
pub(crate) fn server_name(upstream: &Upstream) -> Result<ServerName<'static>, TlsProblem> {
    let name = upstream.tls.server_name.as_ref().unwrap_or(&upstream.host);
    match name.parse::<IpAddr>() {
        Ok(address) => Ok(ServerName::IpAddress(address.into())),
        Err(_) => ServerName::try_from(name.to_string())
            .map_err(|_| TlsProblem::BadServerName(name.clone())),
    }
}
