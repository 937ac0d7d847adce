//! Paths to routes: canonical path first (literal > `{param}` > `**`, segment by segment), then the method
//! (named > ANY; GET covers HEAD).

use std::collections::HashMap;

use foldhash::fast::FixedState;
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
    /// Exact patterns without a parameter, by what is below the root. They are more particular than any other, so they are
    /// asked first, in one look-up: 600 instructions less for three segments than the way down the tree.
    literal: HashMap<Box<str>, Leaf, FixedState>,
    /// All others.
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    literals: Children,
    param: Option<Box<Node>>,
    exact: Option<Leaf>,
    rest: Option<Leaf>,
}

/// What lies below a node, by the text of the segment.
#[derive(Debug, Default)]
struct Children {
    /// All, while they are few: to compare some texts takes less than to hash one, 40 instructions a segment.
    few: Vec<(Box<str>, Node)>,
    /// All, once there were more. A fixed hash is enough: callers look names up, they cannot put any in.
    many: HashMap<Box<str>, Node, FixedState>,
}

/// Texts that are compared one by one.
const FEW: usize = 4;

#[derive(Debug, Default)]
struct Leaf {
    named: Vec<(Method, RouteIx)>,
    any: Option<RouteIx>,
    /// Value of `Allow` for a method that is not here.
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

impl Pattern {
    /// Parses one `match:` such as `POST /sms/send`, `GET /voice/{id}`, `ANY /webhooks/**` or a bare path (`ANY`).
    pub fn parse(text: &str) -> Result<(MethodMatch, Pattern), PatternProblem> {
        let (method, path) = match text.trim().split_once(char::is_whitespace) {
            Some((method, path)) => (method_match(method)?, path.trim()),
            None => (MethodMatch::Any, text.trim()),
        };
        let problem = |what: String| Err(PatternProblem(what));
        let Some(below_root) = path.strip_prefix('/') else {
            return problem(format!("a path starts with `/`, as in `GET /{path}`"));
        };
        let (below_root, rest) = match below_root.strip_suffix("**") {
            Some(before) if before.is_empty() || before.ends_with('/') => {
                (before.strip_suffix('/').unwrap_or(before), Rest::Anything)
            }
            Some(_) => {
                return problem("`**` stands alone as the last segment: write `/**`".to_owned());
            }
            None => (below_root, Rest::Exact),
        };
        let mut segments = Vec::new();
        if !(below_root.is_empty() && rest == Rest::Anything) {
            for segment in below_root.split('/') {
                segments.push(parse_segment(segment, &segments)?);
            }
        }
        if segments.len() > 1 && segments.contains(&Segment::Literal("".into())) {
            return problem(
                "an empty segment: `//` matches no request, and a path with a trailing `/` is another \
                 path than the one without; write it without, or `/**` for everything below"
                    .to_owned(),
            );
        }
        Ok((method, Pattern { segments, rest }))
    }

    /// What is below the root of the one path that it matches; `None` if it matches several.
    fn literal(&self) -> Option<Box<str>> {
        let literal = |segment: &Segment| match segment {
            Segment::Literal(text) => Some(Box::clone(text)),
            Segment::Param(_) => None,
        };
        match self.rest {
            Rest::Anything => None,
            Rest::Exact => {
                let segments: Option<Vec<_>> = self.segments.iter().map(literal).collect();
                segments.map(|segments| segments.join("/").into())
            }
        }
    }

    /// The place of the segment `{name}`, 0 for the first.
    pub fn param_segment(&self, name: &str) -> Option<usize> {
        self.segments
            .iter()
            .position(|segment| matches!(segment, Segment::Param(param) if &**param == name))
    }
}

fn method_match(text: &str) -> Result<MethodMatch, PatternProblem> {
    if text == "ANY" {
        return Ok(MethodMatch::Any);
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
        return Err(PatternProblem(format!(
            "`{text}` is no method: write `METHOD /path` with the method in capitals, or `ANY /path`"
        )));
    }
    Method::from_bytes(text.as_bytes())
        .map(MethodMatch::One)
        .map_err(|_| PatternProblem(format!("`{text}` is no HTTP method")))
}

fn parse_segment(text: &str, before: &[Segment]) -> Result<Segment, PatternProblem> {
    if let Some(name) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        let fine = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if !fine {
            return Err(PatternProblem(format!(
                "`{{{name}}}`: a parameter's name is letters, digits, `_` and `-`"
            )));
        }
        if before.iter().any(|segment| matches!(segment, Segment::Param(other) if &**other == name))
        {
            return Err(PatternProblem(format!("`{{{name}}}` stands twice in one path")));
        }
        return Ok(Segment::Param(name.into()));
    }
    if text.contains(['{', '}', '*']) {
        return Err(PatternProblem(format!(
            "`{text}`: a segment is plain text or one whole `{{name}}`; `**` stands alone at the end"
        )));
    }
    if let Err(problem) = super::head::canonical_segment(text.as_bytes()) {
        return Err(PatternProblem(format!("`{text}` can match no request: {problem}")));
    }
    Ok(Segment::Literal(text.into()))
}

impl Router {
    /// Builds the router; every pair of routes with equal claims is reported.
    pub fn build(
        claims: impl IntoIterator<Item = (MethodMatch, Pattern, RouteIx)>,
    ) -> Result<Router, Vec<Conflict>> {
        let mut router = Router::default();
        let mut conflicts = Vec::new();
        for (method, pattern, route) in claims {
            if let Some(below_root) = pattern.literal() {
                let leaf = router.literal.entry(below_root).or_default();
                if let Some(first) = leaf.claim(method, route) {
                    conflicts.push(Conflict { first, second: route });
                }
                continue;
            }
            let mut node = &mut router.root;
            for segment in pattern.segments {
                node = match segment {
                    Segment::Literal(text) => node.literals.named(text),
                    Segment::Param(_) => &mut **node.param.get_or_insert_default(),
                };
            }
            let leaf = match pattern.rest {
                Rest::Exact => node.exact.get_or_insert_default(),
                Rest::Anything => node.rest.get_or_insert_default(),
            };
            if let Some(first) = leaf.claim(method, route) {
                conflicts.push(Conflict { first, second: route });
            }
        }
        router.literal.values_mut().for_each(Leaf::name_allowed_methods);
        router.root.name_allowed_methods();
        if conflicts.is_empty() { Ok(router) } else { Err(conflicts) }
    }

    /// The route for a canonical path and a method. The path decides first: a more particular path without the
    /// method is 405 even where a `**` beside it has the method.
    pub fn find(&self, method: &Method, path: &str) -> Routed<'_> {
        let below_root = path.strip_prefix('/').unwrap_or(path);
        let leaf = self.literal.get(below_root);
        match leaf.or_else(|| self.root.find(Some(below_root))) {
            None => Routed::Nowhere,
            Some(leaf) => leaf.route(method).map_or(Routed::OtherMethods(&leaf.allow), Routed::To),
        }
    }
}

impl Children {
    fn get(&self, text: &str) -> Option<&Node> {
        if self.many.is_empty() {
            self.few.iter().find(|(name, _)| **name == *text).map(|(_, node)| node)
        } else {
            self.many.get(text)
        }
    }

    /// The child of this name, made if there is none.
    fn named(&mut self, text: Box<str>) -> &mut Node {
        let known = self.few.iter().position(|(name, _)| *name == text);
        if known.is_none() && (self.few.len() == FEW || !self.many.is_empty()) {
            self.many.extend(self.few.drain(..));
            return self.many.entry(text).or_default();
        }
        let at = known.unwrap_or(self.few.len());
        if at == self.few.len() {
            self.few.push((text, Node::default()));
        }
        &mut self.few[at].1
    }

    fn each(&mut self, act: fn(&mut Node)) {
        self.few.iter_mut().map(|(_, node)| node).chain(self.many.values_mut()).for_each(act);
    }
}

impl Node {
    /// `path` is what lies below this node: `None` at the path's end. Every node lies at one depth, so a look-up
    /// visits each at most once, however patterns overlap.
    fn find(&self, path: Option<&str>) -> Option<&Leaf> {
        let Some(path) = path else {
            return self.exact.as_ref().or(self.rest.as_ref());
        };
        // Segments are short: to look at each byte takes 50 instructions less than to set up a search.
        let (segment, below) = match path.bytes().position(|byte| byte == b'/') {
            Some(end) => (&path[..end], Some(&path[end + 1..])),
            None => (path, None),
        };
        let literal = || self.literals.get(segment).and_then(|node| node.find(below));
        let param = || {
            self.param.as_ref().filter(|_| !segment.is_empty()).and_then(|node| node.find(below))
        };
        literal().or_else(param).or(self.rest.as_ref())
    }

    fn name_allowed_methods(&mut self) {
        for leaf in [&mut self.exact, &mut self.rest].into_iter().flatten() {
            leaf.name_allowed_methods();
        }
        self.literals.each(Node::name_allowed_methods);
        if let Some(node) = &mut self.param {
            node.name_allowed_methods();
        }
    }
}

impl Leaf {
    fn name_allowed_methods(&mut self) {
        let mut names: Vec<&str> = self.named.iter().map(|(method, _)| method.as_str()).collect();
        if names.contains(&"GET") && !names.contains(&"HEAD") {
            names.push("HEAD");
        }
        self.allow = names.join(", ");
    }

    fn claim(&mut self, method: MethodMatch, route: RouteIx) -> Option<RouteIx> {
        match method {
            MethodMatch::Any => match self.any {
                Some(first) => return Some(first),
                None => self.any = Some(route),
            },
            MethodMatch::One(method) => {
                if let Some((_, first)) = self.named.iter().find(|(named, _)| *named == method) {
                    return Some(*first);
                }
                self.named.push((method, route));
            }
        }
        None
    }

    fn route(&self, method: &Method) -> Option<RouteIx> {
        let named = |wanted: &Method| {
            self.named.iter().find(|(named, _)| named == wanted).map(|(_, route)| *route)
        };
        let by_get = || if *method == Method::HEAD { named(&Method::GET) } else { None };
        named(method).or_else(by_get).or(self.any)
    }
}

impl std::fmt::Display for PatternProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(claims: &[&str]) -> Router {
        let claims = (0..).map(RouteIx).zip(claims).map(|(ix, text)| {
            let (method, pattern) = Pattern::parse(text).unwrap();
            (method, pattern, ix)
        });
        Router::build(claims).unwrap()
    }

    #[test]
    fn a_literal_beats_a_parameter_and_a_parameter_beats_the_rest() {
        let router = router(&["GET /a/b", "GET /a/{x}", "GET /a/**", "GET /**"]);
        for (path, want) in
            [("/a/b", 0), ("/a/c", 1), ("/a/c/d", 2), ("/a", 2), ("/b", 3), ("/", 3)]
        {
            assert_eq!(router.find(&Method::GET, path), Routed::To(RouteIx(want)), "{path}");
        }
    }

    #[test]
    fn a_dead_end_below_a_literal_falls_back_to_the_parameter() {
        let router = router(&["GET /a/b/c", "GET /a/{x}/d"]);
        assert_eq!(router.find(&Method::GET, "/a/b/d"), Routed::To(RouteIx(1)));
        assert_eq!(router.find(&Method::GET, "/a/b"), Routed::Nowhere);
    }

    #[test]
    fn the_path_decides_before_the_method() {
        let router = router(&["GET /a/{x}", "POST /a/**"]);
        assert_eq!(router.find(&Method::POST, "/a/1"), Routed::OtherMethods("GET, HEAD"));
        assert_eq!(router.find(&Method::POST, "/a/1/2"), Routed::To(RouteIx(1)));
    }

    #[test]
    fn a_named_method_beats_any_and_get_covers_head() {
        let router = router(&["ANY /x", "GET /x"]);
        assert_eq!(router.find(&Method::GET, "/x"), Routed::To(RouteIx(1)));
        assert_eq!(router.find(&Method::HEAD, "/x"), Routed::To(RouteIx(1)));
        assert_eq!(router.find(&Method::PUT, "/x"), Routed::To(RouteIx(0)));
    }

    #[test]
    fn a_trailing_slash_is_another_path() {
        let router = router(&["POST /sms/send"]);
        assert_eq!(router.find(&Method::POST, "/sms/send/"), Routed::Nowhere);
    }

    #[test]
    fn equal_claims_are_reported_with_both_routes() {
        let claims = ["GET /a/{x}", "GET /a/{y}"].map(|text| Pattern::parse(text).unwrap());
        let built = Router::build((0..).map(RouteIx).zip(claims).map(|(ix, (m, p))| (m, p, ix)));
        assert_eq!(built.unwrap_err(), [Conflict { first: RouteIx(0), second: RouteIx(1) }]);
    }

    #[test]
    fn patterns_that_can_match_nothing_are_refused_with_a_remedy() {
        for text in [
            "GET a",
            "get /a",
            "GET /a/**/b",
            "GET /a*",
            "GET /a/",
            "GET /a//b",
            "GET /{}",
            "GET /{x}/{x}",
            "GET /..",
            "GET /a%2fb",
        ] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
        for text in ["GET /", "ANY /**", "/a", "GET /a/{id}/b/**", "POST /email%20x"] {
            assert!(Pattern::parse(text).is_ok(), "{text}");
        }
    }
}
