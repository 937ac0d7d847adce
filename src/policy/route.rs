//! Paths to routes: canonical path first (literal > `{param}` > `**`, segment by segment), then the method
//! (named > ANY; GET covers HEAD).

use std::collections::HashMap;

use http::Method;

use super::Name;
use super::limit::Mode;
use super::snapshot::{RouteIx, ScopeIx};

/// What a caller must have been granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeRule {
    /// The demand.
    pub demand: ScopeDemand,
    /// Whether it vetoes.
    pub mode: Mode,
}

/// The scopes a route demands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScopeDemand {
    /// At least one of these.
    Any(Box<[ScopeIx]>),
    /// Every one of these.
    All(Box<[ScopeIx]>),
}

/// The method part of `match:`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MethodMatch {
    /// `ANY`.
    Any,
    /// This one; `GET` covers `HEAD` unless `HEAD` is named too.
    One(Method),
}

/// The path part of `match:`, parsed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    /// The segments before a `**`.
    pub segments: Vec<Segment>,
    /// Whether `/**` ends it; it includes the bare path.
    pub rest: Rest,
}

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// Exactly this text, byte for byte.
    Literal(Box<str>),
    /// `{name}`: any one segment that is not empty.
    Param(Name),
}

/// How a pattern ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rest {
    /// With its last segment.
    Exact,
    /// `/**`: anything below, and the bare path.
    Anything,
}

/// Why a `match:` is none. `Display` names the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternProblem(pub String);

/// Two routes with equal claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The one that came first.
    pub first: RouteIx,
    /// The one that claims the same path and method.
    pub second: RouteIx,
}

/// Path → methods → route.
#[derive(Debug, Default)]
pub struct Router {
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, Node>,
    param: Option<Box<Node>>,
    exact: Option<Leaf>,
    rest: Option<Leaf>,
}

#[derive(Debug, Default)]
struct Leaf {
    named: Vec<(Method, RouteIx)>,
    any: Option<RouteIx>,
    allow: String,
}

/// What a path and a method lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routed<'a> {
    /// A route.
    To(RouteIx),
    /// The path is known, the method is not: the value of `Allow`.
    OtherMethods(&'a str),
    /// No route has this path.
    Nowhere,
}
