//! Reads the source tree as text: its code without comments, strings and tests, the words in it, and the paths it names.

use std::fs;
use std::path::Path;

/// One file of `src/`.
pub(crate) struct Source {
    /// Below `src/`, with `/`.
    pub(crate) path: String,
    /// All of it.
    pub(crate) text: String,
    tokens: Vec<String>,
}

/// Every `.rs` file below `src/`.
pub(crate) fn all_sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of the source tree") {
            let path = entry.expect("an entry of it").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                let below = path.strip_prefix(&root).expect("it is below the root");
                let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
                found.push(Source::new(&parts.join("/"), &text));
            }
        }
    }
    found
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Source {
        let mut source =
            Source { path: path.to_owned(), text: text.to_owned(), tokens: Vec::new() };
        if !source.is_test() {
            source.tokens = tokens(&without_text(source.before_tests()));
        }
        source
    }

    /// The first folder of its path, or the file's name at the root.
    pub(crate) fn room(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Whether the whole file is tests.
    pub(crate) fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    pub(crate) fn lines_before_tests(&self) -> usize {
        self.before_tests().lines().count()
    }

    /// Tests stand last in a file, so everything from the first module of them on is left out. A lone item for tests
    /// only (`#[cfg(test)]` before anything but a module) does not end the code.
    fn before_tests(&self) -> &str {
        let starts = self.text.match_indices("#[cfg(test)]").find(|(at, mark)| {
            let line_start = *at == 0 || self.text.as_bytes()[at - 1] == b'\n';
            let mut rest = self.text[at + mark.len()..].trim_start();
            while rest.starts_with("#[") {
                rest = rest.split_once(']').map_or("", |(_, rest)| rest).trim_start();
            }
            line_start && (rest.starts_with("mod ") || rest.starts_with("pub(crate) mod "))
        });
        &self.text[..starts.map_or(self.text.len(), |(at, _)| at)]
    }

    /// Every identifier of its code.
    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().map(String::as_str).filter(|token| is_word(token))
    }

    /// Every path that its code names, `use` trees written out.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            if is_word(&self.tokens[at]) {
                at = self.path_from(at, "", &mut paths);
            } else {
                at += 1;
            }
        }
        paths
    }

    /// Reads the path or tree that starts at `at`, below `before`; returns where it ends.
    fn path_from(&self, mut at: usize, before: &str, paths: &mut Vec<String>) -> usize {
        let token = |at: usize| self.tokens.get(at).map_or("", String::as_str);
        let mut path = before.to_owned();
        loop {
            if token(at) == "{" && !path.is_empty() {
                at += 1;
                while !matches!(token(at), "}" | "") {
                    let next = self.path_from(at, &path, paths);
                    at = next.max(at + 1);
                }
                return at + 1;
            }
            if !is_word(token(at)) {
                break;
            }
            if !path.is_empty() {
                path.push_str("::");
            }
            path.push_str(token(at));
            at += 1;
            if token(at) != "::" {
                break;
            }
            at += 1;
        }
        if path != before {
            paths.push(path);
        }
        at
    }

    /// The rooms that its paths lead to, `super` and `self` followed; its own among them.
    pub(crate) fn rooms_named(&self) -> Vec<String> {
        let mut module: Vec<&str> = self.path.trim_end_matches(".rs").split('/').collect();
        if matches!(module.last(), Some(&"mod" | &"lib" | &"main")) {
            module.pop();
        }
        let mut rooms: Vec<String> = Vec::new();
        for path in self.paths() {
            let mut parts = path.split("::").peekable();
            let mut here = module.clone();
            match parts.next() {
                Some("crate" | "tollgate") => here.clear(),
                Some("super") => {
                    here.pop();
                    while parts.next_if_eq(&"super").is_some() {
                        here.pop();
                    }
                }
                _ => continue,
            }
            let room = here.first().copied().or_else(|| parts.next());
            rooms.extend(room.map(str::to_owned));
        }
        rooms.sort_unstable();
        rooms.dedup();
        rooms
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Words, `::`, and every other sign by itself.
fn tokens(code: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let length = if is_part(first) {
            rest.find(|c| !is_part(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        tokens.push(rest[..length].to_owned());
        rest = rest[length..].trim_start();
    }
    tokens
}

/// The code without comments, and with nothing inside its strings and characters.
fn without_text(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if first == '"' {
            string(rest)
        } else if let Some(length) = raw_string(rest).filter(|_| !ends_in_word(&out)) {
            length
        } else if first == '\'' {
            character(rest)
        } else {
            0
        };
        if skipped > 0 {
            out.push(' ');
            rest = &rest[skipped..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

fn ends_in_word(text: &str) -> bool {
    text.ends_with(|c: char| c.is_alphanumeric() || c == '_')
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of `r"…"`, `r#"…"#`, with `b` or `c` before it or not.
fn raw_string(text: &str) -> Option<usize> {
    let body = text.strip_prefix(['b', 'c']).unwrap_or(text).strip_prefix('r')?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let inside = body[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = inside.find(&close)? + close.len();
    Some(text.len() - inside.len() + end)
}

/// The length of a character; 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            chars.next();
            chars.find(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1)
        }
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}
