//! What came out: figures, the bars they are held to, and the table at the end.

use std::time::Duration;

use crate::output::{percent, table};

/// One measured number, printed as `figure NAME VALUE UNIT`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
}

/// Something that must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) what: String,
    pub(crate) holds: bool,
}

/// Accuracies before the re-mount, after it, and after retraining.
#[derive(Debug, Clone, PartialEq)]
struct Accuracy {
    who: String,
    before: Option<f64>,
    drifted: Option<f64>,
    after: Option<f64>,
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Vec<Figure>,
    verdicts: Vec<Verdict>,
    accuracies: Vec<Accuracy>,
    facts: Vec<(String, String)>,
}

/// Which column of the accuracy table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    Drifted,
    After,
}

impl Moment {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Drifted => "drifted",
            Self::After => "after",
        }
    }
}

impl Report {
    pub(crate) fn figure(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure {
            name: name.into(),
            value,
            unit,
        });
    }

    /// A count, which fits a float's 53 bits as anything counted here does.
    #[expect(clippy::cast_precision_loss, reason = "counts of a demo are far below 2^53")]
    pub(crate) fn count(&mut self, name: impl Into<String>, value: u64, unit: &'static str) {
        self.figure(name, value as f64, unit);
    }

    /// A row of the table that is no accuracy.
    pub(crate) fn fact(&mut self, name: &str, value: impl Into<String>) {
        self.facts.push((name.to_owned(), value.into()));
    }

    pub(crate) fn accuracy(&mut self, who: &str, moment: Moment, value: f64) {
        self.figure(
            format!("accuracy_{}_{}", who.replace([' ', '-'], "_"), moment.as_str()),
            value,
            "share",
        );
        let place = self
            .accuracies
            .iter()
            .position(|row| row.who == who)
            .unwrap_or_else(|| {
                self.accuracies.push(Accuracy {
                    who: who.to_owned(),
                    before: None,
                    drifted: None,
                    after: None,
                });
                self.accuracies.len() - 1
            });
        if let Some(row) = self.accuracies.get_mut(place) {
            match moment {
                Moment::Before => row.before = Some(value),
                Moment::Drifted => row.drifted = Some(value),
                Moment::After => row.after = Some(value),
            }
        }
    }

    pub(crate) fn require(&mut self, what: impl Into<String>, holds: bool) {
        self.verdicts.push(Verdict {
            what: what.into(),
            holds,
        });
    }

    pub(crate) fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    /// What does not hold.
    pub(crate) fn failures(&self) -> Vec<&str> {
        let failed = self.verdicts.iter().filter(|verdict| !verdict.holds);
        failed.map(|verdict| verdict.what.as_str()).collect()
    }

    pub(crate) fn figure_lines(&self) -> String {
        let lines: Vec<String> = self
            .figures
            .iter()
            .map(|figure| format!("figure {} {} {}", figure.name, number(figure.value), figure.unit))
            .collect();
        lines.join("\n")
    }

    /// The table of what happened.
    pub(crate) fn summary(&self, steps: &[(String, Duration)]) -> String {
        let share = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), percent);
        let accuracies = table(
            &["accuracy", "before", "drifted", "after"],
            self.accuracies
                .iter()
                .map(|row| vec![row.who.clone(), share(row.before), share(row.drifted), share(row.after)]),
        );
        let facts = table(
            &["what", "came out"],
            self.facts.iter().map(|(name, value)| vec![name.clone(), value.clone()]),
        );
        let total: Duration = steps.iter().map(|(_, took)| *took).sum();
        let all = std::iter::once(("in all".to_owned(), total));
        let times = table(
            &["step", "seconds"],
            steps
                .iter()
                .cloned()
                .chain(all)
                .map(|(title, took)| vec![title, format!("{:.1}", took.as_secs_f64())]),
        );
        format!("{accuracies}\n\n{facts}\n\n{times}")
    }
}

/// Whole numbers as such, others with four digits after the point.
fn number(value: f64) -> String {
    if value.fract().abs() < f64::EPSILON {
        return format!("{value:.0}");
    }
    format!("{value:.4}")
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "a handful of values")]
    let count = values.len() as f64;
    values.iter().sum::<f64>() / count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        report.accuracy("mean of 5 seeds", Moment::Before, 0.9875);
        report.accuracy("mean of 5 seeds", Moment::Drifted, 0.38);
        report.accuracy("press-1", Moment::Before, 1.0);
        report.accuracy("mean of 5 seeds", Moment::After, 0.98);
        report.count("packages_bytes", 12_345, "bytes");
        report.fact("audit", "7 chains intact");
        report.require("accuracy before", true);
        report.require("control raises no alarm", false);
        report
    }

    #[test]
    fn the_table_of_what_happened() {
        let steps = [
            ("Start".to_owned(), Duration::from_millis(1500)),
            ("Train".to_owned(), Duration::from_secs(7)),
        ];
        insta::assert_snapshot!(report().summary(&steps), @r"
        ACCURACY         BEFORE   DRIFTED  AFTER
        mean of 5 seeds  98.8 %   38.0 %   98.0 %
        press-1          100.0 %  -        -

        WHAT   CAME OUT
        audit  7 chains intact

        STEP    SECONDS
        Start   1.5
        Train   7.0
        in all  8.5
        ");
    }

    #[test]
    fn figures_are_lines_and_failures_are_named() {
        insta::assert_snapshot!(report().figure_lines(), @r"
        figure accuracy_mean_of_5_seeds_before 0.9875 share
        figure accuracy_mean_of_5_seeds_drifted 0.3800 share
        figure accuracy_press_1_before 1 share
        figure accuracy_mean_of_5_seeds_after 0.9800 share
        figure packages_bytes 12345 bytes
        ");
        assert_eq!(report().failures(), ["control raises no alarm"]);
    }

    #[test]
    fn means() {
        assert!((mean(&[1.0, 0.5]) - 0.75).abs() < 1e-12);
        assert!(mean(&[]).abs() < 1e-12);
    }
}
