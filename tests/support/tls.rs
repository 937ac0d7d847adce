//! Certificates of a test's own, and clients that trust them.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

/// A CA and a certificate for `localhost` and 127.0.0.1, as PEM.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) ca: String,
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Identity {
    pub(crate) fn new() -> Identity {
        let made = "rcgen makes what it is asked for";
        let ca_key = KeyPair::generate().expect(made);
        let mut ca = CertificateParams::new(Vec::<String>::new()).expect(made);
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).expect(made);
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate().expect(made);
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let leaf = CertificateParams::new(names).expect(made).signed_by(&key, &issuer).expect(made);
        Identity { ca: ca_certificate.pem(), chain: leaf.pem(), key: key.serialize_pem() }
    }

    /// Writes `ca.pem`, `chain.pem` and `key.pem`, each by an atomic rename.
    pub(crate) fn write(&self, directory: &Path) {
        let files = [("ca.pem", &self.ca), ("chain.pem", &self.chain), ("key.pem", &self.key)];
        for (name, text) in files {
            let new = directory.join(format!(".new.{name}"));
            fs::write(&new, text).expect("the directory can be written to");
            fs::rename(&new, directory.join(name)).expect("a rename within a directory works");
        }
    }

    fn leaf(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).expect("rcgen writes PEM")
    }

    /// What a server shows that has this certificate.
    pub(crate) fn server(&self, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("rcgen writes PEM");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_no_client_auth()
            .with_single_cert(vec![self.leaf()], key)
            .expect("the key fits the certificate");
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }

    /// A client that trusts this CA and no other.
    pub(crate) fn client(&self, alpn: &[u8]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.ca.as_bytes()).expect("rcgen writes PEM");
        roots.add(ca).expect("a CA can be trusted");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(config)
    }

    /// A connection under TLS; a problem where the other side's certificate is not of this CA.
    pub(crate) fn connect(&self, address: SocketAddr) -> std::io::Result<Secured> {
        let name = ServerName::try_from("localhost").expect("it is a name");
        let client = ClientConnection::new(self.client(b"http/1.1"), name)
            .expect("the configuration is complete");
        let tcp = TcpStream::connect(address)?;
        tcp.set_read_timeout(Some(std::time::Duration::from_secs(10)))?;
        let mut stream = StreamOwned::new(client, tcp);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Secured(stream))
    }
}

/// A connection under TLS.
pub(crate) struct Secured(StreamOwned<ClientConnection, TcpStream>);

impl Secured {
    /// Sends bytes and reads up to `end`.
    pub(crate) fn ask(&mut self, bytes: &[u8], end: &str) -> std::io::Result<String> {
        self.0.write_all(bytes)?;
        let mut all = Vec::new();
        let mut one = [0];
        while !all.ends_with(end.as_bytes()) {
            self.0.read_exact(&mut one)?;
            all.push(one[0]);
        }
        Ok(String::from_utf8_lossy(&all).into_owned())
    }
}
