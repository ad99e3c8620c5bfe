//! Writes `protocol/test-data`: one fixture per wire type with its expected reading, and a folder per attack.
//!
//! `cargo run -p flotilla-protocol --example make_fixtures` is run when a layout is added, never to make a failing test
//! pass: what is committed is what devices in the field send and expect. Keys come from fixed seeds and protect nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use documents::Made;
use serde_json::Value;

mod attacks;
mod documents;
mod v1;

fn main() -> Made<()> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("test-data");
    write_v1(&data.join("v1"))?;
    write_attacks(&data.join("attacks"))
}

/// Indented JSON, with arrays of numbers (byte strings, most of them) on one line.
fn pretty(value: &impl serde::Serialize) -> Made<String> {
    let mut out = String::new();
    indent(&serde_json::to_value(value)?, "\n", &mut out);
    out.push('\n');
    Ok(out)
}

fn indent(value: &Value, newline: &str, out: &mut String) {
    let deeper = format!("{newline}  ");
    match value {
        Value::Array(items) if items.iter().any(|item| !item.is_number()) => {
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                out.push_str(if place == 0 { "" } else { "," });
                out.push_str(&deeper);
                indent(item, &deeper, out);
            }
            out.push_str(newline);
            out.push(']');
        }
        Value::Object(fields) if !fields.is_empty() => {
            out.push('{');
            for (place, (name, field)) in fields.iter().enumerate() {
                out.push_str(if place == 0 { "" } else { "," });
                out.push_str(&deeper);
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push_str(": ");
                indent(field, &deeper, out);
            }
            out.push_str(newline);
            out.push('}');
        }
        leaf => out.push_str(&leaf.to_string()),
    }
}

fn write_v1(folder: &Path) -> Made<()> {
    fs::create_dir_all(folder)?;
    let fixtures = v1::fixtures()?;
    for fixture in &fixtures {
        fs::write(folder.join(format!("{}.cbor", fixture.name)), &fixture.cbor)?;
        fs::write(folder.join(format!("{}.json", fixture.name)), pretty(&fixture.reading)?)?;
    }
    fs::write(folder.join("keys.json"), pretty(&v1::keys())?)?;
    fs::write(folder.join("external-aad.txt"), v1::aad(&fixtures)?)?;
    fs::write(folder.join("topics.txt"), v1::topics()?)?;
    Ok(())
}

fn write_attacks(folder: &Path) -> Made<()> {
    for attack in attacks::attacks()? {
        let folder = folder.join(attack.name);
        fs::create_dir_all(&folder)?;
        for (name, bytes) in &attack.files {
            fs::write(folder.join(name), bytes)?;
        }
        let expect = BTreeMap::from([
            ("about", Value::from(attack.about)),
            ("steps", Value::from(attack.steps)),
        ]);
        fs::write(folder.join("expect.json"), pretty(&expect)?)?;
    }
    Ok(())
}
