//! What is wrong with a policy, told so that it can be put right: file, line, column, the line itself, a caret, and a
//! remedy. Problems are collected, never thrown: an operator sees all of them at once. Must never: decide what is
//! wrong; that is the readers' and the compiler's.

use std::cell::OnceCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// How much a problem weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The policy is not taken.
    Error,
    /// The policy is taken; somebody should look.
    Warning,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether it keeps the policy from being taken.
    pub severity: Severity,
    /// The file it is in.
    pub file: PathBuf,
    /// Line, from 1; 0 where the problem is the whole file.
    pub line: usize,
    /// Column in characters, from 1; 0 where the problem is the whole line or file.
    pub column: usize,
    /// How many characters the carets cover, at least 1.
    pub width: usize,
    /// The source line, without its end; empty where there is none to quote.
    pub source: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// Everything that is wrong with a policy, ordered by file and line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Them, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (ordinal, problem) in self.0.iter().enumerate() {
            if ordinal > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{word}: {}", self.message)?;
        if self.source.is_empty() {
            let line = if self.line == 0 { String::new() } else { format!(":{}", self.line) };
            writeln!(f, "  --> {}{line}", self.file.display())?;
            if let Some(remedy) = &self.remedy {
                writeln!(f, "   = {remedy}")?;
            }
            return Ok(());
        }
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len() + 1);
        writeln!(f, "{gutter}--> {}:{}:{}", self.file.display(), self.line, self.column.max(1))?;
        let (source, column) = window(&self.source, self.column.max(1));
        writeln!(f, "{gutter} |")?;
        writeln!(f, " {number} | {source}")?;
        let carets = "^".repeat(self.width.clamp(1, MOST_CARETS));
        write!(f, "{gutter} | {}{carets}", " ".repeat(column - 1))?;
        match &self.remedy {
            Some(remedy) => writeln!(f, " {remedy}"),
            None => writeln!(f),
        }
    }
}

/// Carets drawn under one problem: enough to see what is meant.
const MOST_CARETS: usize = 80;
/// Characters of a source line that are shown: a line of JSON may be long.
const MOST_SOURCE: usize = 160;

/// The part of a line around `column`, and where the column is in it. Control characters are shown as `?`, so that a
/// hostile file cannot move the operator's cursor.
fn window(source: &str, column: usize) -> (String, usize) {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    if source.chars().count() <= MOST_SOURCE {
        return (source.chars().map(shown).collect(), column);
    }
    let from = (column - 1).saturating_sub(MOST_SOURCE / 2);
    let part: String = source.chars().skip(from).take(MOST_SOURCE).map(shown).collect();
    if from == 0 { (part, column) } else { (format!("…{part}"), column - from + 1) }
}

/// A place in a file that was read: bytes `start..end` of file number `file`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Span {
    pub(super) file: u16,
    pub(super) start: u32,
    pub(super) end: u32,
}

/// A value and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) at: Span,
}

/// A file that was read, kept until loading ends so that problems can quote it.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    text: Rc<String>,
    /// Number of the first line of the text, from 1.
    first_line: usize,
    /// Where each line but the first starts.
    lines: OnceCell<Vec<u32>>,
}

impl Source {
    /// The line, from 1, that holds byte `at` of the text, and where it starts in the text.
    fn line(&self, at: usize) -> (usize, usize) {
        let starts = self.lines.get_or_init(|| {
            let newlines = self.text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
            newlines.filter_map(|(at, _)| u32::try_from(at + 1).ok()).collect()
        });
        match starts.partition_point(|start| *start as usize <= at) {
            0 => (self.first_line, 0),
            line => (self.first_line + line, starts[line - 1] as usize),
        }
    }
}

/// What was found so far. Every reader and compiler takes it and goes on after a problem.
#[derive(Debug, Default)]
pub(super) struct Findings {
    sources: Vec<Source>,
    problems: Vec<Problem>,
    error_places: Vec<Span>,
    failed: bool,
    untold: usize,
}

/// Problems that are told; a file with more has one cause.
const MOST_PROBLEMS: usize = 200;

impl Findings {
    /// Takes in a file to quote from. `None` past 65 535 files, or for one over 4 GiB.
    pub(super) fn source(&mut self, path: &Path, text: String) -> Option<u16> {
        u32::try_from(text.len()).ok()?;
        let file = u16::try_from(self.sources.len()).ok()?;
        let text = Rc::new(text);
        let lines = OnceCell::new();
        self.sources.push(Source { path: path.to_owned(), text, first_line: 1, lines });
        Some(file)
    }

    /// Goes on to the next lines of a file that is read in parts; the first of them has this number. Nothing is quoted
    /// from the part before any more.
    pub(super) fn next_part(&mut self, file: u16, text: String, first_line: usize) {
        if let Some(source) = self.sources.get_mut(usize::from(file)) {
            (source.text, source.first_line) = (Rc::new(text), first_line);
            source.lines = OnceCell::new();
        }
    }

    /// The text of a file that was taken in, shared, so that problems can be pushed while it is read.
    pub(super) fn text(&self, file: u16) -> Rc<String> {
        self.sources.get(usize::from(file)).map(|source| source.text.clone()).unwrap_or_default()
    }

    /// Forgets a text that nothing will be quoted from any more: key files are large.
    pub(super) fn forget(&mut self, file: u16) {
        if let Some(source) = self.sources.get_mut(usize::from(file)) {
            source.text = Rc::default();
            source.lines = OnceCell::new();
        }
    }

    /// The path of a file that was taken in.
    pub(super) fn path(&self, file: u16) -> &Path {
        self.sources.get(usize::from(file)).map_or(Path::new(""), |source| &source.path)
    }

    pub(super) fn error(&mut self, at: Span, message: impl Into<String>) {
        self.push(Severity::Error, at, message.into(), None);
    }

    pub(super) fn error_with(
        &mut self,
        at: Span,
        message: impl Into<String>,
        remedy: impl Into<Option<String>>,
    ) {
        self.push(Severity::Error, at, message.into(), remedy.into());
    }

    pub(super) fn warn(
        &mut self,
        at: Span,
        message: impl Into<String>,
        remedy: impl Into<Option<String>>,
    ) {
        self.push(Severity::Warning, at, message.into(), remedy.into());
    }

    /// A problem with a whole file, such as one that cannot be read.
    pub(super) fn file_error(
        &mut self,
        path: &Path,
        message: impl Into<String>,
        remedy: impl Into<Option<String>>,
    ) {
        self.keep(Problem {
            severity: Severity::Error,
            file: path.to_owned(),
            line: 0,
            column: 0,
            width: 1,
            source: String::new(),
            message: message.into(),
            remedy: remedy.into(),
        });
    }

    /// Something needed is not there. Not told where an error inside `within` explains it already.
    pub(super) fn missing(&mut self, within: Span, message: impl Into<String>, remedy: &str) {
        if !self.has_errors_at(within) {
            self.error_with(within, message, remedy.to_owned());
        }
    }

    /// Whether an error was found inside this place.
    pub(super) fn has_errors_at(&self, within: Span) -> bool {
        self.error_places
            .iter()
            .any(|at| at.file == within.file && within.start <= at.start && at.start <= within.end)
    }

    /// A problem on a line of a file whose text was forgotten already.
    pub(super) fn line_error(&mut self, path: &Path, line: usize, message: String, remedy: String) {
        self.keep(Problem {
            severity: Severity::Error,
            file: path.to_owned(),
            line,
            column: 0,
            width: 1,
            source: String::new(),
            message,
            remedy: Some(remedy),
        });
    }

    fn push(&mut self, severity: Severity, at: Span, message: String, remedy: Option<String>) {
        if severity == Severity::Error {
            self.failed = true;
            if self.error_places.len() < MOST_PROBLEMS {
                self.error_places.push(at);
            }
        }
        if self.problems.len() >= MOST_PROBLEMS {
            self.untold += 1;
            return;
        }
        let (line, column, width, source) = self.quote(at);
        let file = self.path(at.file).to_owned();
        self.keep(Problem { severity, file, line, column, width, source, message, remedy });
    }

    fn keep(&mut self, problem: Problem) {
        self.failed |= problem.severity == Severity::Error;
        if self.problems.len() >= MOST_PROBLEMS {
            self.untold += 1;
        } else if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    fn quote(&self, at: Span) -> (usize, usize, usize, String) {
        let Some(source) = self.sources.get(usize::from(at.file)) else {
            return (0, 0, 1, String::new());
        };
        let text = &*source.text;
        if at.start as usize > text.len() || text.is_empty() {
            return (0, 0, 1, String::new());
        }
        let start = floor_char(text, at.start as usize);
        let end = floor_char(text, at.end as usize).max(start);
        let (number, line_start) = source.line(start);
        let line_end = text[start..].find('\n').map_or(text.len(), |length| start + length);
        let line = text[line_start..line_end].trim_end_matches('\r');
        let column = text[line_start..start].chars().count() + 1;
        let width = text[start..end.min(line_end)].trim_end().chars().count().max(1);
        (number, column, width, line.to_owned())
    }

    /// The line, from 1, on which a place starts.
    pub(super) fn line(&self, at: Span) -> usize {
        self.sources.get(usize::from(at.file)).map_or(0, |source| source.line(at.start as usize).0)
    }

    /// Whether an error was found.
    pub(super) fn has_errors(&self) -> bool {
        self.failed
    }

    /// Everything that was found: errors (which include the warnings), or only warnings.
    pub(super) fn finish(mut self) -> Result<Problems, Problems> {
        let failed = self.has_errors();
        self.problems.sort_by(|a, b| {
            (&a.file, a.line, a.column, a.severity).cmp(&(&b.file, b.line, b.column, b.severity))
        });
        if self.untold > 0
            && let Some(last) = self.problems.last().cloned()
        {
            self.problems.push(Problem {
                message: format!("{} more problems are not shown", self.untold),
                remedy: None,
                ..last
            });
        }
        if failed { Err(Problems(self.problems)) } else { Ok(Problems(self.problems)) }
    }
}

fn floor_char(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The known word nearest to a wrong one, if it is near enough to be a slip.
pub(super) fn nearest<'a>(
    wrong: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let plain = |word: &str| word.to_lowercase().replace(['_', ' '], "-");
    let wrong = plain(wrong);
    known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(&wrong, &plain(word)), word))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, word)| *distance <= word.chars().count().div_ceil(3).min(3))
        .map(|(_, word)| word)
}

/// The remedy "did you mean", or the list of what would do where nothing is near and the list is short.
pub(super) fn did_you_mean<'a>(
    wrong: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(wrong, known.iter().copied()) {
        Some(word) => Some(format!("did you mean `{word}`?")),
        None if known.is_empty() => None,
        None if known.len() <= 16 => Some(format!("known: {}", known.join(", "))),
        None => None,
    }
}
