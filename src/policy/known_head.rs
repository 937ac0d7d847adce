//! What was made of a connection's latest head, kept for the same head again: who polls asks the same again and again, and
//! what was read out of some bytes under a policy is true of the same bytes under the same policy. Who asks, and whether
//! that key is still good, is decided anew at every request.

use std::net::IpAddr;

use super::authenticate::Caller;
use super::authorize::{Permit, authorize};
use super::head::{Checked, Head, Seen, Unchecked};
use super::refusal::Refused;
use super::route::Routed;
use super::snapshot::{RouteIx, Snapshot};

/// What steps 2 to 4 make of a request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a, 'p> {
    /// Its head, checked.
    pub head: Head<'a>,
    /// The client's address.
    pub client: IpAddr,
    /// Where its path and its method lead.
    pub routed: Routed<'p>,
}

/// What was made of the latest head of one connection, under one policy: to be forgotten under another. Only of one that has
/// a mark and leads to a route. With the credential that is known by its head it saves 790 instructions a request, 430 of one
/// without a policy.
#[derive(Debug, Default)]
pub struct KnownHead(Option<Box<Known>>);

#[derive(Debug)]
struct Known {
    checked: Checked,
    client: IpAddr,
    route: RouteIx,
    /// What step 6 made of it for the caller who came last.
    permit: Option<Permit>,
}

impl KnownHead {
    /// Steps 2 to 4 of a request on this connection, whose other end is `peer`.
    pub fn read<'a, 'p>(
        &mut self,
        snapshot: &'p Snapshot,
        unchecked: &Unchecked<'a>,
        seen: &'a Seen<'a>,
        peer: IpAddr,
    ) -> Result<Request<'a, 'p>, Refused> {
        if let Some(known) = &self.0
            && let Some(head) = Head::again(unchecked, seen, known.checked)
        {
            let Known { client, route, .. } = **known;
            return Ok(Request { head, client, routed: Routed::To(route) });
        }
        let head = Head::check(unchecked, seen, &snapshot.bounds)?;
        let client = snapshot.client_address.client(peer, head.fields);
        let routed = snapshot.router.find(head.method, head.path);
        if let (Some(checked), Routed::To(route)) = (head.checked(), routed) {
            let known = Known { checked, client, route, permit: None };
            match &mut self.0 {
                Some(latest) => **latest = known,
                None => self.0 = Some(Box::new(known)),
            }
        }
        Ok(Request { head, client, routed })
    }

    /// Step 6: as [`authorize`] of a request that was read here, to this route.
    pub fn authorize(
        &mut self,
        snapshot: &Snapshot,
        request: &Request<'_, '_>,
        route: RouteIx,
        caller: Option<Caller>,
    ) -> Result<Permit, Refused> {
        let Request { head, client, .. } = request;
        let known = self.0.as_deref_mut().filter(|known| head.checked() == Some(known.checked));
        let before = known.as_ref().and_then(|known| known.permit.as_ref());
        if let Some(permit) = before.and_then(|permit| permit.again(route, caller)) {
            return Ok(permit);
        }
        let permit = authorize(snapshot, route, caller, *client, head)?;
        if let Some(known) = known {
            known.permit = Some(permit.clone());
        }
        Ok(permit)
    }

    /// Forgets it: the policy is another.
    pub fn forget(&mut self) {
        self.0 = None;
    }
}
