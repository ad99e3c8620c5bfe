//! Looks through a JSON body for text that reads as something else, wherever in the body it stands. Values are not judged
//! otherwise, and broken JSON is the real parser's to name.

use std::cell::Cell;
use std::fmt;

use flotilla_protocol::text::{self, Deceptive};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Fields of several lines: expressions, remarks, certificates.
const OF_LINES: [&str; 5] = ["when", "note", "reason", "description", "csr_pem"];

/// Refuses a body with such text in it.
pub(super) fn check_json(body: &[u8]) -> Result<(), Deceptive> {
    let found = Cell::new(None);
    let mut json = serde_json::Deserializer::from_slice(body);
    let looked = Texts {
        field: "text",
        found: &found,
    }
    .deserialize(&mut json);
    match (looked, found.take()) {
        (Err(_), Some(deceptive)) => Err(deceptive),
        _ => Ok(()),
    }
}

/// Refuses a query with such text in it.
pub(super) fn check_query(pairs: &[(String, String)]) -> Result<(), Deceptive> {
    pairs.iter().try_for_each(|(field, value)| check(field, value))
}

fn check(field: &str, value: &str) -> Result<(), Deceptive> {
    if OF_LINES.contains(&field) {
        let lines = value.split(['\n', '\r', '\t']);
        return lines.into_iter().try_for_each(|line| text::check(field, line));
    }
    text::check(field, value)
}

struct Texts<'a> {
    /// The field that the value stands under.
    field: &'a str,
    found: &'a Cell<Option<Deceptive>>,
}

impl Texts<'_> {
    fn look<E: Error>(&self, field: &str, value: &str) -> Result<(), E> {
        check(field, value).map_err(|deceptive| {
            self.found.set(Some(deceptive));
            E::custom("deceptive text")
        })
    }
}

impl<'de> DeserializeSeed<'de> for Texts<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Texts<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.look(self.field, value)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key::<String>()? {
            self.look("a field's name", &field)?;
            map.next_value_seed(Texts {
                field: &field,
                found: self.found,
            })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let item = || Texts {
            field: self.field,
            found: self.found,
        };
        while seq.next_element_seed(item())?.is_some() {}
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deceptive_text_is_found_wherever_it_stands() {
        for bad in [
            r#"{"name": "a\u001b[2K"}"#,
            r#"{"labels": ["a", ["b\u202e"]]}"#,
            r#"{"tags": {"si\u0007te": "oslo"}}"#,
            r#"{"deep": [{"semver": "1.0.0\n"}]}"#,
            r#"{"when": "a\u001bb"}"#,
            r#""\u009b""#,
        ] {
            assert!(check_json(bad.as_bytes()).is_err(), "{bad}");
        }
        for good in [
            r#"{"name": "Wälzlager", "n": [1, -2, 3.5, null, true], "when": "f[\"a\"] > 1.0\n  && true"}"#,
            r#"{"csr_pem": "-----BEGIN\n-----END\r\n"}"#,
            "{ this is not JSON",
            "",
        ] {
            assert_eq!(check_json(good.as_bytes()), Ok(()), "{good}");
        }
        assert!(check_query(&[("semver".to_owned(), "1.0\u{1b}".to_owned())]).is_err());
    }
}
