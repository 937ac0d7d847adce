//! `tollgate check`: the loader's own code, and every problem at once.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::args::{Check, CheckFormat};
use super::failure::{Code, Failure};
use super::policy::read_file;
use super::{environment, print};
use crate::clock::{Clock, Wall};
use crate::config::{self, Overrides, Problem, Secrets, Severity, Sources};
use crate::gate::{check_tls, list_directory};
use crate::policy::snapshot::Snapshot;

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
    let secrets = if arguments.offline { Secrets::Optional } else { Secrets::Required };
    let reports: Vec<Report> =
        arguments.files.iter().map(|file| examine(file, secrets, now)).collect();
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

/// The one thing that `run` refuses and the loader does not know. Without secrets there is no key to look at.
fn tls_problem(file: &Path, policy: &Snapshot, secrets: Secrets) -> Option<Problem> {
    let problem = match secrets {
        Secrets::Required => check_tls(policy).err()?,
        Secrets::Optional => return None,
    };
    Some(Problem {
        severity: Severity::Error,
        file: file.to_owned(),
        line: 0,
        column: 0,
        width: 1,
        source: String::new(),
        message: problem.to_string(),
        remedy: None,
    })
}

fn examine(file: &Path, secrets: Secrets, now: Wall) -> Report {
    let sources = Sources {
        read: &read_file,
        open: None,
        list: &list_directory,
        env: &environment,
        breathe: &|| (),
    };
    let overrides = Overrides { secrets, ..Overrides::default() };
    let loaded = config::load(file, &overrides, &sources, now, None);
    let (problems, notes) = match loaded {
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
            let mut problems = loaded.warnings.0;
            problems.extend(tls_problem(file, policy, secrets));
            (problems, notes)
        }
        Err(problems) => (problems.0, Vec::new()),
    };
    Report { file: file.to_owned(), problems, notes }
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
