//! Where each effective value was written: for `show`, which prints it beside the value.

use std::collections::HashMap;
use std::path::PathBuf;

use super::problem::{Findings, Span};
use crate::policy::limit::{Ceiling, LimitIx};
use crate::policy::snapshot::{PlanIx, ScopeIx, TenantIx};

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Where everything was written that `show` prints.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    /// The routes, by name.
    pub routes: HashMap<String, Place>,
    /// What each route matches, by its name.
    pub matches: HashMap<String, Vec<String>>,
    /// The limits, by name.
    pub limits: HashMap<String, Place>,
    /// The plans, by name.
    pub plans: HashMap<String, Place>,
    /// The tenants, by name; those that only keys name have none.
    pub tenants: HashMap<String, Place>,
    /// The key files, in the order they were read.
    pub key_files: Vec<PathBuf>,
    /// File (of `key_files`) and line of each key, indexed by its place.
    pub keys: Vec<(u16, u32)>,
    /// What plans set other limits to.
    pub plan_overrides: HashMap<(PlanIx, LimitIx), (Option<Ceiling>, Place)>,
    /// What tenants set limits to.
    pub tenant_overrides: HashMap<(TenantIx, LimitIx), (Option<Ceiling>, Place)>,
    /// The most that the callers of a plan may do, where it says so. The snapshot holds only what is left for each key.
    pub plan_scopes: HashMap<PlanIx, Vec<ScopeIx>>,
    /// The most that a tenant's keys may do, where it says so.
    pub tenant_scopes: HashMap<TenantIx, Vec<ScopeIx>>,
}

impl Origins {
    pub(super) fn place(findings: &Findings, at: Span) -> Place {
        Place { file: findings.path(at.file).to_owned(), line: findings.line(at) }
    }
}
