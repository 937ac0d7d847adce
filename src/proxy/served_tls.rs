//! The TLS configurations of the listeners, in force for new connections. A reload that changes a certificate changes
//! them; one that does not keeps them, and with them the tickets that clients hold.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;

use super::tls::{TlsProblem, server_config};
use crate::policy::snapshot::{Listener, ListenerTls};

#[derive(Clone, Debug)]
struct Served {
    material: ListenerTls,
    config: Arc<ServerConfig>,
}

/// One configuration a listener that has TLS, in the order in which the listeners were bound.
#[derive(Debug)]
pub struct ServedTls {
    addresses: Vec<SocketAddr>,
    served: ArcSwap<Vec<Option<Served>>>,
}

impl ServedTls {
    /// The configurations of the listeners that are about to be bound.
    pub fn new(listeners: &[Listener]) -> Result<ServedTls, TlsProblem> {
        let served =
            listeners.iter().map(|listener| served(listener, None)).collect::<Result<_, _>>()?;
        Ok(ServedTls {
            addresses: listeners.iter().map(|listener| listener.address).collect(),
            served: ArcSwap::from_pointee(served),
        })
    }

    /// Whether every listener's material can be used, before a policy comes into force.
    pub fn check(listeners: &[Listener]) -> Result<(), TlsProblem> {
        listeners.iter().try_for_each(|listener| served(listener, None).map(drop))
    }

    /// Takes up what a new policy says of the listeners that are bound. What it cannot use it leaves as it is: the
    /// policy was checked before.
    pub fn refresh(&self, listeners: &[Listener]) {
        let current = self.served.load();
        let next = self.addresses.iter().zip(current.iter()).map(|(address, now)| {
            let wanted = listeners.iter().find(|listener| listener.address == *address);
            wanted
                .and_then(|wanted| served(wanted, now.as_ref()).ok().flatten())
                .or_else(|| now.clone())
        });
        self.served.store(Arc::new(next.collect()));
    }

    /// The configuration of a listener; `None` where it has no TLS.
    pub(crate) fn of(&self, listener: usize) -> Option<Arc<ServerConfig>> {
        self.served.load().get(listener)?.as_ref().map(|served| Arc::clone(&served.config))
    }
}

fn served(listener: &Listener, current: Option<&Served>) -> Result<Option<Served>, TlsProblem> {
    let Some(material) = &listener.tls else { return Ok(None) };
    if let Some(same) = current.filter(|current| current.material == *material) {
        return Ok(Some(same.clone()));
    }
    Ok(Some(Served { material: material.clone(), config: server_config(material)? }))
}
