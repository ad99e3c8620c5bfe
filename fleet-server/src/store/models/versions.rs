//! Questions for versions: those of one line, or of all lines of a project, with what they were made of by name. Their bytes
//! stay where they are.

use flotilla_api_types::models::SignatureState;
use flotilla_protocol::ids::{DatasetVersionId, Digest, ModelLine, ModelVersionId, RunId};
use uuid::Uuid;

use super::ModelFilter;
use crate::store::sql::{Sql, containing};
use crate::store::to_i64;

const LIST: &str =
    "SELECT v.id, v.line, v.semver, v.release_counter, v.manifest, v.signature, v.run, v.dataset_version,
    v.package_bytes, v.golden_max_diff, v.golden_cases, v.created_at,
    e.name AS experiment, r.seed, s.id AS dataset, s.name AS dataset_name, d.number AS dataset_number
    FROM model_versions v LEFT JOIN runs r ON r.id = v.run LEFT JOIN experiments e ON e.id = r.experiment
    LEFT JOIN dataset_versions d ON d.id = v.dataset_version LEFT JOIN datasets s ON s.id = d.dataset";
const COUNT: &str = "SELECT COUNT(*) FROM model_versions v";

/// Of which lines.
#[derive(Debug, Clone, Copy)]
pub enum Whose<'a> {
    Line(&'a ModelLine),
    /// All of this one's, narrowed.
    Project(&'a str, &'a Lineage),
}

/// What versions of all lines are narrowed to; what is empty narrows nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    pub run: Option<RunId>,
    pub dataset_version: Option<DatasetVersionId>,
    /// Any of these: by them devices name packages.
    pub manifests: Vec<Digest>,
}

impl Lineage {
    fn conditions(&self, sql: &mut Sql) {
        if let Some(run) = self.run {
            sql.push(" AND v.run = ");
            sql.text(run.to_string());
        }
        if let Some(version) = self.dataset_version {
            sql.push(" AND v.dataset_version = ");
            sql.text(version.to_string());
        }
        for (index, manifest) in self.manifests.iter().enumerate() {
            sql.push(if index == 0 { " AND v.manifest IN (" } else { ", " });
            sql.text(manifest.to_string());
        }
        if !self.manifests.is_empty() {
            sql.push(")");
        }
    }
}

/// Everything that is asked of a version, its place in the list aside.
fn matching(select: &'static str, whose: Whose<'_>, filter: ModelFilter<'_>) -> Sql {
    let mut sql = Sql::new(select);
    match whose {
        Whose::Line(line) => {
            sql.push(" WHERE v.line = ");
            sql.text(line.as_str());
        }
        Whose::Project(project, lineage) => {
            sql.push(" WHERE v.line IN (SELECT m.line FROM models m WHERE m.project_id = ");
            sql.text(project);
            sql.push(")");
            lineage.conditions(&mut sql);
        }
    }
    if filter.signature.is_some() {
        sql.push(" AND v.signature = ");
        sql.text(filter.signature_text());
    }
    if !filter.text.is_empty() {
        sql.push(" AND LOWER(v.semver || ' ' || v.manifest || ' ' || v.id || ' ' || COALESCE(v.run, '')) LIKE ");
        // LOWER knows A to Z alone, in both databases: what was typed is lowered alike.
        sql.text(containing(&filter.text.to_ascii_lowercase()));
        sql.push(" ESCAPE '\\'");
    }
    sql
}

/// A page of a line: newest first, below a release counter.
pub(super) fn of_line(filter: ModelFilter<'_>, line: &ModelLine, below: Option<u64>, limit: u32) -> Sql {
    let mut sql = matching(LIST, Whose::Line(line), filter);
    sql.push(" AND v.release_counter < ");
    sql.int(below.map_or(i64::MAX, to_i64));
    sql.push(" ORDER BY v.release_counter DESC LIMIT ");
    sql.int(i64::from(limit));
    sql
}

/// A page of all lines: newest first, which is the order of ids, below one of them.
pub(super) fn of_all(
    filter: ModelFilter<'_>,
    (project, lineage): (&str, &Lineage),
    below: Option<ModelVersionId>,
    limit: u32,
) -> Sql {
    let mut sql = matching(LIST, Whose::Project(project, lineage), filter);
    if let Some(below) = below {
        sql.push(" AND v.id < ");
        sql.text(below.to_string());
    }
    sql.push(" ORDER BY v.id DESC LIMIT ");
    sql.int(i64::from(limit));
    sql
}

/// On all pages.
pub(super) fn how_many(filter: ModelFilter<'_>, whose: Whose<'_>) -> Sql {
    matching(COUNT, whose, filter)
}

/// Between them, every piece: for the test that prepares SQL on both databases.
pub fn sample_queries() -> Vec<String> {
    let narrowed = ModelFilter {
        signature: Some(SignatureState::Signed),
        text: "x",
    };
    let made_of = Lineage {
        run: Some(RunId::new(Uuid::nil())),
        dataset_version: Some(DatasetVersionId::new(Uuid::nil())),
        manifests: vec![Digest([0; 32]), Digest([1; 32])],
    };
    let mut queries = Vec::new();
    for (filter, lineage, below) in [
        (ModelFilter::default(), Lineage::default(), None),
        (narrowed, made_of, Some(ModelVersionId::new(Uuid::nil()))),
    ] {
        queries.push(of_all(filter, ("p", &lineage), below, 10));
        queries.push(how_many(filter, Whose::Project("p", &lineage)));
        if let Ok(line) = ModelLine::new("x") {
            queries.push(of_line(filter, &line, None, 10));
            queries.push(how_many(filter, Whose::Line(&line)));
        }
    }
    queries.iter().map(|sql| sql.as_str().to_owned()).collect()
}
