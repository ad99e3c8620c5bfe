//! Every way in which a command ends badly, with the exit code that scripts see.
//!
//! 1: refused or failed; 2: usage; 3: the server cannot be reached; 4: what was waited for did not come, or failed.

use std::path::{Path, PathBuf};

use flotilla_api_types::Problem;
use flotilla_protocol::trust::TrustError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The server understood and said no.
    #[error("{}", problem_text(.0))]
    Refused(Box<Problem>),
    #[error("the server {server} cannot be reached: {why}")]
    Unreachable { server: String, why: String },
    #[error("the server's answer to {path} is not understood: {why}")]
    Answer { path: String, why: String },
    #[error("{}: {why}", path.display())]
    File { path: PathBuf, why: String },
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
    /// A wait ended without what was waited for, or a job or rollout failed.
    #[error("{0}")]
    Waited(String),
    #[error("trust: {0}")]
    Trust(#[from] TrustError),
    #[error("the output cannot be written: {0}")]
    Output(#[from] std::io::Error),
}

impl CliError {
    pub(crate) fn file(path: &Path, why: impl std::fmt::Display) -> Self {
        Self::File {
            path: path.to_owned(),
            why: format!("{why}"),
        }
    }

    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_)
            | Self::Answer { .. }
            | Self::File { .. }
            | Self::Failed(_)
            | Self::Trust(_)
            | Self::Output(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable { .. } => 3,
            Self::Waited(_) => 4,
        }
    }

    /// The reader of our output went away (`fleetctl … | head`): nothing is wrong.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(why) if why.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

fn problem_text(problem: &Problem) -> String {
    let mut text = format!("{} ({})", problem.title, problem.status);
    if !problem.detail.is_empty() {
        text = format!("{text}: {}", problem.detail);
    }
    for item in &problem.errors {
        // One that the headline says already is not said again.
        if !problem.detail.contains(&item.message) {
            text = format!("{text}\n  {}: {}", item.place, item.message);
        }
    }
    if problem.status == 401 {
        text = format!(
            "{text}\n  name the token with --token-file FILE, or let a profile remember it: 'fleetctl login --server URL \
             --token-file FILE' (FLOTILLA_PROFILE names another profile)"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use flotilla_api_types::common::ProblemItem;

    use super::*;

    #[test]
    fn a_problem_is_shown_with_its_places() {
        let problem = Problem {
            kind: "urn:flotilla:problem:invalid".into(),
            code: "invalid".into(),
            title: "The file cannot be imported".into(),
            status: 422,
            detail: "2 problems".into(),
            instance: None,
            errors: vec![ProblemItem {
                place: "line 7, column accel_x".into(),
                message: "'NaN' is not a finite number".into(),
            }],
        };
        let error = CliError::Refused(Box::new(problem));
        insta::assert_snapshot!(error, @r"
        The file cannot be imported (422): 2 problems
          line 7, column accel_x: 'NaN' is not a finite number
        ");
        assert_eq!(error.exit_code(), 1);
        let unknown = Problem {
            kind: "urn:flotilla:problem:unknown-token".into(),
            code: "unknown-token".into(),
            title: "The token is refused".into(),
            status: 401,
            detail: "the API token is none of this server's".into(),
            instance: None,
            errors: vec![ProblemItem {
                place: "header".into(),
                message: "the API token is none of this server's".into(),
            }],
        };
        let text = CliError::Refused(Box::new(unknown)).to_string();
        assert!(
            text.contains("fleetctl login --server") && !text.contains("header"),
            "{text}"
        );
        assert_eq!(CliError::Waited(String::new()).exit_code(), 4);
    }
}
