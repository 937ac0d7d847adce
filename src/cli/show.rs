//! `tollgate show`: what is in force, and the line it comes from.

use super::args;
use super::failure::Failure;
use super::policy::load_for_keys;
use super::print;
use crate::clock::Clock;
use crate::config::{self, Show};

pub(super) fn show(arguments: &args::Show) -> Result<(), Failure> {
    let now = Clock::system().now().wall;
    let loaded = load_for_keys(&arguments.file, None, now)
        .map_err(|problems| Failure::problems(&problems))?;
    let what = match (&arguments.key, &arguments.tenant, &arguments.route) {
        (Some(key), _, _) => Show::Key(key.clone()),
        (_, Some(tenant), _) => Show::Tenant(tenant.clone()),
        (_, _, Some(route)) => Show::Route(route.clone()),
        (None, None, None) => Show::All,
    };
    print(&config::show(&loaded, &what).map_err(Failure::problem)?)
}
