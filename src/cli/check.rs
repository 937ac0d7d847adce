//! `tollgate check`: the loader's own code, and every problem at once.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::args::{Check, CheckFormat};
use super::failure::{Code, Failure};
use super::policy::{list_directory, read_file};
use super::{environment, print};
use crate::clock::{Clock, Wall};
use crate::config::{self, Overrides, Problem, Severity, Sources};

/// What one policy came to.
struct Report {
    file: PathBuf,
    problems: Vec<Problem>,
    /// What the loader says that is no problem, and how much there is of everything; only of a policy that loads.
    notes: Vec<String>,
}

impl Report {
    fn count(&self, severity: Severity) -> usize {
        self.problems.iter().filter(|problem| problem.severity == severity).count()
    }

    fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }
}

pub(super) fn check(arguments: &Check) -> Result<(), Failure> {
    let now = Clock::system().now().wall;
    let reports: Vec<Report> =
        arguments.files.iter().map(|file| examine(file, arguments.offline, now)).collect();
    print(&match arguments.format {
        CheckFormat::Human => human(&reports),
        CheckFormat::Json => as_json(&reports),
        CheckFormat::Github => github(&reports),
    })?;
    let errors: usize = reports.iter().map(Report::errors).sum();
    let warnings: usize = reports.iter().map(Report::warnings).sum();
    if errors > 0 || (arguments.deny_warnings && warnings > 0) {
        return Err(Failure { code: Code::Problem, text: String::new() });
    }
    Ok(())
}

/// What stands in for a secret that is not here: long enough for a pepper, and plain text for a header.
const STAND_IN: &str = "a-secret-that-is-not-here-0123456789";

fn examine(file: &Path, offline: bool, now: Wall) -> Report {
    let absent: RefCell<Vec<String>> = RefCell::default();
    let read = |path: &Path| {
        let read = read_file(path);
        if let Err(error) = &read
            && error.kind() == io::ErrorKind::NotFound
            && path != file
        {
            absent.borrow_mut().push(path.display().to_string());
        }
        read
    };
    let env = |name: &str| {
        environment(name).or_else(|| {
            offline.then(|| {
                absent.borrow_mut().push(format!("${name}"));
                STAND_IN.to_owned()
            })
        })
    };
    let sources = Sources { read: &read, list: &list_directory, env: &env };
    let loaded = config::load(file, &Overrides::default(), &sources, now, None);
    let (mut problems, notes) = match loaded {
        Ok(loaded) => {
            let policy = &loaded.snapshot;
            let counts = [
                counted(policy.routes.len(), "route"),
                counted(policy.limits.len(), "limit"),
                counted(policy.plans.len(), "plan"),
                counted(policy.tenants.len(), "tenant"),
                counted(policy.keys.len(), "key"),
            ]
            .join(", ");
            let notes = loaded.notes.iter().cloned().chain([counts]).collect();
            (loaded.warnings.0, notes)
        }
        Err(problems) => (problems.0, Vec::new()),
    };
    if offline {
        let absent = absent.into_inner();
        soften(&mut problems, &absent);
        problems.extend(absent.iter().filter(|name| name.starts_with('$')).map(|name| Problem {
            severity: Severity::Warning,
            file: file.to_owned(),
            line: 0,
            column: 0,
            width: 1,
            source: String::new(),
            message: format!("{name} is not set here; a stand-in was checked instead"),
            remedy: None,
        }));
    }
    Report { file: file.to_owned(), problems, notes }
}

/// Makes warnings of the problems that are about files which are not here.
fn soften(problems: &mut [Problem], absent: &[String]) {
    for problem in problems {
        let about_absent = absent.iter().any(|path| {
            problem.message.starts_with(path.as_str()) || problem.file == Path::new(path.as_str())
        });
        if about_absent {
            problem.severity = Severity::Warning;
        }
    }
}

fn human(reports: &[Report]) -> String {
    let mut out = String::new();
    for report in reports {
        for problem in &report.problems {
            let _ = writeln!(out, "{problem}");
        }
        for note in &report.notes {
            let _ = writeln!(out, "{}: {note}", report.file.display());
        }
        let verdict = if report.errors() > 0 { "not usable" } else { "usable" };
        let _ = writeln!(
            out,
            "{}: {verdict}; {}, {}",
            report.file.display(),
            counted(report.errors(), "error"),
            counted(report.warnings(), "warning")
        );
    }
    out
}

fn counted(count: usize, what: &str) -> String {
    match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

fn as_json(reports: &[Report]) -> String {
    let policies: Vec<Value> = reports
        .iter()
        .map(|report| {
            let problems: Vec<Value> = report.problems.iter().map(problem_json).collect();
            json!({
                "file": report.file.display().to_string(),
                "usable": report.errors() == 0,
                "errors": report.errors(),
                "warnings": report.warnings(),
                "problems": problems,
                "notes": report.notes,
            })
        })
        .collect();
    json!({ "policies": policies }).to_string() + "\n"
}

fn problem_json(problem: &Problem) -> Value {
    json!({
        "severity": word(problem.severity),
        "file": problem.file.display().to_string(),
        "line": problem.line,
        "column": problem.column,
        "width": problem.width,
        "message": problem.message,
        "remedy": problem.remedy,
    })
}

/// Workflow commands, as GitHub's runner reads them from standard output.
fn github(reports: &[Report]) -> String {
    let mut out = String::new();
    for problem in reports.iter().flat_map(|report| &report.problems) {
        let file =
            escaped(&problem.file.display().to_string()).replace(':', "%3A").replace(',', "%2C");
        let message = match &problem.remedy {
            Some(remedy) => format!("{}: {remedy}", problem.message),
            None => problem.message.clone(),
        };
        let _ = writeln!(
            out,
            "::{} file={file},line={},col={}::{}",
            word(problem.severity),
            problem.line.max(1),
            problem.column.max(1),
            escaped(&message)
        );
    }
    out
}

fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}
