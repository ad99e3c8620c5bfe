//! Makes audit records. They are appended by [`crate::store::audit::append`], in the transaction of what they record.

use std::collections::BTreeMap;

use flotilla_protocol::audit::AuditRecord;

use crate::clock;

/// A record of now. `subject` is an id with its kind: `rollout:…`.
pub fn record<const N: usize>(
    actor: &str,
    event: &str,
    subject: impl Into<String>,
    detail: [(&str, String); N],
) -> AuditRecord {
    AuditRecord {
        at: clock::now_ms(),
        actor: clip(actor),
        event: event.to_owned(),
        subject: clip(&subject.into()),
        detail: BTreeMap::from(detail.map(|(key, value)| (key.to_owned(), clip(&value)))),
    }
}

/// Entries are small by design: text from outside is cut, never refused.
fn clip(text: &str) -> String {
    text.chars().take(500).collect()
}
