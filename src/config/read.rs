//! Tree → raw shapes: the machinery. A shape is a struct declared with [`shape!`]: its words, and the type of each
//! value. Reading pushes a problem for everything that does not fit and goes on. Must never: give a default or a
//! meaning; that is the compiler's.

use super::problem::{At, Findings, Span, did_you_mean};
use super::tree::{Key, Node, Value};

/// Reads itself from a node. `None`: a problem was pushed.
pub(super) trait Read: Sized {
    fn read(node: &Node, findings: &mut Findings) -> Option<Self>;
}

/// Reads itself from the text of a scalar.
pub(super) trait FromText: Sized {
    /// What is expected, for "expected …": with an example.
    const WHAT: &'static str;

    /// The value, or what is wrong with the text; an empty complaint stands for "expected WHAT".
    fn from_text(text: &str) -> Result<Self, Complaint>;
}

/// What is wrong with a text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) message: Option<String>,
    pub(super) remedy: Option<String>,
}

impl Complaint {
    pub(super) fn because(message: impl Into<String>) -> Complaint {
        Complaint { message: Some(message.into()), remedy: None }
    }
}

/// Words that are specified and come with a later release, wherever they stand.
const LATER: &[(&str, &str)] =
    &[("read_body", "routes that read the body"), ("countries", "country lists")];

pub(super) fn not_yet(what: &str) -> String {
    format!("{what} are not in this release; they come with a later one")
}

impl<T: FromText> Read for At<T> {
    fn read(node: &Node, findings: &mut Findings) -> Option<At<T>> {
        let Value::Scalar(scalar) = &node.value else {
            findings.error(node.at, format!("expected {}, found {}", T::WHAT, node.kind()));
            return None;
        };
        match T::from_text(&scalar.text) {
            Ok(value) => Some(At { value, at: node.at }),
            Err(Complaint { message, remedy }) => {
                let message = message.unwrap_or_else(|| {
                    format!("expected {}, found `{}`", T::WHAT, clip(&scalar.text))
                });
                findings.error_with(node.at, message, remedy);
                None
            }
        }
    }
}

/// A text cut to what a message can hold.
pub(super) fn clip(text: &str) -> String {
    let mut out: String =
        text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(60).is_some() {
        out.push('…');
    }
    out
}

/// The node as it is, for what another reader looks at later.
impl Read for Node {
    fn read(node: &Node, _: &mut Findings) -> Option<Node> {
        Some(node.clone())
    }
}

/// A list of values; a single value stands for a list of one.
#[derive(Clone, Debug)]
pub(super) struct Many<T> {
    pub(super) items: Vec<T>,
    pub(super) at: Span,
}

impl<T: Read> Read for Many<T> {
    fn read(node: &Node, findings: &mut Findings) -> Option<Many<T>> {
        let items = match &node.value {
            Value::List(items) => items.iter().filter_map(|item| T::read(item, findings)).collect(),
            Value::Null => {
                findings.error_with(
                    node.at,
                    "expected a value or a list, found nothing",
                    "write [] for an empty list".to_owned(),
                );
                return None;
            }
            Value::Scalar(_) | Value::Map(_) => vec![T::read(node, findings)?],
        };
        Some(Many { items, at: node.at })
    }
}

/// A list that must be written as one.
#[derive(Clone, Debug)]
pub(super) struct Items<T> {
    pub(super) items: Vec<T>,
}

impl<T: Read> Read for Items<T> {
    fn read(node: &Node, findings: &mut Findings) -> Option<Items<T>> {
        match &node.value {
            Value::List(items) => Some(Items {
                items: items.iter().filter_map(|item| T::read(item, findings)).collect(),
            }),
            Value::Null => Some(Items { items: Vec::new() }),
            Value::Scalar(_) | Value::Map(_) => {
                findings.error(node.at, format!("expected a list, found {}", node.kind()));
                None
            }
        }
    }
}

/// A map from names that the policy's author chose, in its order.
#[derive(Clone, Debug)]
pub(super) struct Named<T> {
    pub(super) entries: Vec<(Key, T)>,
}

impl<T> Default for Named<T> {
    fn default() -> Named<T> {
        Named { entries: Vec::new() }
    }
}

impl<T: Read> Read for Named<T> {
    fn read(node: &Node, findings: &mut Findings) -> Option<Named<T>> {
        let mut entries = Vec::new();
        for (key, value) in map_of(node, "this", findings)? {
            if let Some(value) = T::read(value, findings) {
                entries.push((key.clone(), value));
            }
        }
        Some(Named { entries })
    }
}

/// The entries of a map; nothing counts as an empty one.
pub(super) fn map_of<'n>(
    node: &'n Node,
    what: &str,
    findings: &mut Findings,
) -> Option<&'n [(Key, Node)]> {
    match &node.value {
        Value::Map(entries) => Some(entries),
        Value::Null => Some(&[]),
        Value::Scalar(_) | Value::List(_) => {
            findings.error(node.at, format!("{what} is a map, not {}", node.kind()));
            None
        }
    }
}

/// Pushes the problem of a word that a map does not know.
pub(super) fn unknown_field(key: &Key, what: &str, words: &[&str], findings: &mut Findings) {
    if let Some((_, later)) = LATER.iter().find(|(word, _)| *word == key.text) {
        findings.error_with(
            key.at,
            format!("`{}`: {}", key.text, not_yet(later)),
            "take it out for now".to_owned(),
        );
        return;
    }
    findings.error_with(
        key.at,
        format!("{what} has no field `{}`", clip(&key.text)),
        did_you_mean(&key.text, words.iter().copied()),
    );
}

/// Declares a raw shape: a struct of optional fields, each with its word, read from a map; words it does not know are
/// problems. `Shape::WORDS` lists them for the schema's test.
macro_rules! shape {
    ($( $(#[$meta:meta])* $name:ident, $what:literal { $( $word:literal => $field:ident : $ty:ty, )* } )+) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Debug)]
            pub(super) struct $name {
                #[allow(dead_code, reason = "every shape knows its place; not every one is blamed as a whole")]
                pub(super) at: $crate::config::problem::Span,
                $( pub(super) $field: Option<$ty>, )*
            }

            impl $name {
                /// The words it knows.
                pub(super) const WORDS: &'static [&'static str] = &[ $( $word, )* ];

                /// Where nothing was written.
                pub(super) fn absent(at: $crate::config::problem::Span) -> $name {
                    $name { at, $( $field: None, )* }
                }
            }

            impl $crate::config::read::Read for $name {
                fn read(
                    node: &$crate::config::tree::Node,
                    findings: &mut $crate::config::problem::Findings,
                ) -> Option<$name> {
                    let mut shape = $name::absent(node.at);
                    for (key, value) in $crate::config::read::map_of(node, $what, findings)? {
                        match key.text.as_str() {
                            $( $word => {
                                shape.$field =
                                    <$ty as $crate::config::read::Read>::read(value, findings);
                            } )*
                            _ => $crate::config::read::unknown_field(
                                key, $what, $name::WORDS, findings,
                            ),
                        }
                    }
                    Some(shape)
                }
            }
        )+
    };
}

pub(super) use shape;
