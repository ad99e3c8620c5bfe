//! Tests of the CSV reader: windows, groups, and everything that is wrong with a file named by its place.

use flotilla_protocol::features::Statistic;
use proptest::prelude::*;

use super::*;

fn series() -> ImportSpec {
    ImportSpec {
        layout: Layout::Series {
            case_columns: vec!["split".into(), "case".into()],
            order_column: "step".into(),
            channels: vec!["x".into(), "y".into()],
            length: 2,
            hop: 2,
            rate_hz: 10.0,
            statistics: vec![Statistic::Mean],
        },
        drop_columns: vec![],
        label_column: Some("label".into()),
        split: SplitRule::Modulo {
            group: Group::Case,
            modulus: 4,
            holdout: vec![1],
            exclude: vec![3],
        },
    }
}

fn rows() -> ImportSpec {
    ImportSpec {
        layout: Layout::Row { columns: None },
        drop_columns: vec!["note".into()],
        label_column: None,
        split: SplitRule::Hash {
            holdout_share: 0.3,
            column: None,
        },
    }
}

fn read(import: &ImportSpec, text: &str) -> Result<Vec<RawSample>, ImportError> {
    SampleReader::new(text.as_bytes(), import)?.collect()
}

const HEADER: &str = "split,case,step,x,y,label\n";

#[test]
fn windows_are_cut_per_case() {
    let text = format!(
        "{HEADER}train,0,0,1,2,a\ntrain,0,1,3,4,a\ntrain,0,2,5,6,b\ntrain,1,0,7,8,b\ntest,0,0,9,10,c\ntest,0,5,11,12,c\n"
    );
    let mut reader = SampleReader::new(text.as_bytes(), &series()).unwrap();
    let samples: Vec<RawSample> = reader.by_ref().collect::<Result<_, _>>().unwrap();
    let keys: Vec<&str> = samples.iter().map(|s| s.key.as_str()).collect();
    assert_eq!(keys, ["case=train-0/window=0", "case=test-0/window=0"]);
    assert_eq!(samples[0].values, [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(samples[1].label.as_deref(), Some("c"));
    assert_eq!(reader.feature_spec().feature_names(), ["x.mean", "y.mean"]);
    assert_eq!(
        reader.counts(),
        ImportCounts {
            lines: 6,
            samples: 2,
            cases: 3,
            short_cases: 1,
            unused_steps: 2,
        }
    );
}

#[test]
fn hops_shorter_and_longer_than_the_window() {
    let text = format!(
        "{HEADER}{}",
        (0..7).map(|t| format!("a,0,{t},{t},0,\n")).collect::<Vec<_>>().concat()
    );
    let starts = |hop: u32| {
        let mut import = series();
        if let Layout::Series { hop: h, .. } = &mut import.layout {
            *h = hop;
        }
        let samples = read(&import, &text).unwrap();
        samples.iter().map(|s| s.values[0]).collect::<Vec<f32>>()
    };
    assert_eq!(starts(1), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(starts(2), [0.0, 2.0, 4.0]);
    assert_eq!(starts(3), [0.0, 3.0]);
    assert_eq!(starts(5), [0.0, 5.0]);
}

#[test]
fn what_is_wrong_is_named() {
    let data = |body: &str| format!("{HEADER}{body}");
    let cases: Vec<(ImportSpec, String)> = vec![
        (rows(), String::new()),
        (rows(), "a,note\n".into()),
        (rows(), "a,notes\n1,2\n".into()),
        (rows(), "a,a,note\n".into()),
        (rows(), "a,b,note\n1,2,x\n3,4\n".into()),
        (rows(), "a,b,note\n1,2,x\n3,n/a,x\n".into()),
        (rows(), "a,b,note\n1,NaN,x\n".into()),
        (series(), data("t,0,0,1,2,a\nt,1,0,1,2,a\nt,0,1,1,2,a\n")),
        (series(), data("t,0,0,1,2,a\nt,0,0,1,2,a\n")),
        (series(), data("t,0,0,1,2,a\nt,0,1,1,2,b\n")),
        (series(), data("t,zero,0,1,2,a\n")),
        (series(), data("t,0,soon,1,2,a\n")),
        (series(), "split,case,step,x,yy,label\n".into()),
        (rows(), format!("a,note\n1,{}", "x".repeat(MAX_LINE_BYTES + 9000))),
    ];
    let table: Vec<String> = cases
        .iter()
        .map(|(import, text)| read(import, text).unwrap_err().to_string())
        .collect();
    insta::assert_snapshot!(table.join("\n"), @r"
    the file is empty: a header line with the column names is needed
    the file has a header and no data
    no column is named 'note' (did you mean 'notes'?); the file has a, notes
    two columns are named 'a'
    line 3 has 2 columns, the header has 3
    line 3, column 'b': 'n/a' is not a number; correct it, or drop the column
    line 2, column 'b': 'NaN' is not finite; remove the line or fill the gap
    line 4: case 't-0' appears again after another case; sort the file by case
    line 3, case 't-0': 'step' goes from 0 to 0; it must ascend within a case
    line 3, case 't-0': the label changes from 'a' to 'b' within one window
    line 2: the split needs a whole number in column 'case', 'zero' is none
    line 2, column 'step': 'soon' is not a number; correct it, or drop the column
    no column is named 'y'; the file has split, case, step, x, yy, label
    line 2 is not readable CSV: longer than 1048576 bytes; is a quotation mark left open?
    ");
}

/// Short lines without end, after a beginning.
struct Endless {
    begin: &'static [u8],
    given: usize,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for byte in &mut *buffer {
            *byte = match self.given.checked_sub(self.begin.len()) {
                None => self.begin[self.given],
                Some(after) => b"3,x\n"[after % 4],
            };
            self.given += 1;
        }
        Ok(buffer.len())
    }
}

#[test]
fn a_quotation_mark_left_open_gathers_no_more_than_one_record_may_have() {
    // The header's own, one in the data, and one behind a byte order mark.
    for (begin, line) in [
        ("a,\"note\n", 1),
        ("a,note\n1,x\n2,\"open\n", 3),
        ("\u{feff}\"a,note\n", 1),
    ] {
        let mut source = Endless {
            begin: begin.as_bytes(),
            given: 0,
        };
        let read: Result<Vec<RawSample>, ImportError> =
            SampleReader::new(&mut source, &rows()).and_then(Iterator::collect);
        let why = read.unwrap_err().to_string();
        assert!(
            why.starts_with(&format!("line {line} is not readable CSV: longer")),
            "{why}"
        );
        assert!(
            source.given < MAX_LINE_BYTES + (64 << 10),
            "{} bytes were read",
            source.given
        );
    }
}

#[test]
fn records_of_many_lines_may_follow_each_other_beyond_what_one_may_have() {
    let note = "two\nlines ".repeat(400);
    let text = format!("a,note\n{}", format!("1,\"{note}\"\n").repeat(400));
    assert!(text.len() > MAX_LINE_BYTES + (64 << 10));
    assert_eq!(read(&rows(), &text).unwrap().len(), 400);
}

fn by_machine(split: SplitRule) -> ImportSpec {
    ImportSpec { split, ..rows() }
}

fn hash_of(column: &str) -> SplitRule {
    SplitRule::Hash {
        holdout_share: 0.4,
        column: Some(column.into()),
    }
}

#[test]
fn rows_that_share_a_value_of_the_splits_column_stay_together() {
    let lines: Vec<String> = (0..600).map(|i| format!("{i},m{},x\n", i % 40)).collect();
    let text = format!("a,machine,note\n{}", lines.concat());
    let mut reader = SampleReader::new(text.as_bytes(), &by_machine(hash_of("machine"))).unwrap();
    let samples: Vec<RawSample> = reader.by_ref().collect::<Result<_, _>>().unwrap();
    assert_eq!(
        reader.feature_spec().feature_names(),
        ["a"],
        "the machine's name is no feature"
    );
    let mut sides = std::collections::BTreeMap::new();
    for (i, sample) in samples.iter().enumerate() {
        assert_eq!(
            *sides.entry(i % 40).or_insert(sample.split),
            sample.split,
            "machine {}",
            i % 40
        );
    }
    let held = sides.values().filter(|split| **split == Split::Holdout).count();
    assert!((6..=28).contains(&held), "{held} of 40 machines");
}

#[test]
fn rows_are_divided_by_a_number_of_their_own() {
    let rule = SplitRule::Modulo {
        group: Group::Column("person".into()),
        modulus: 3,
        holdout: vec![2],
        exclude: vec![],
    };
    let text = "a,person,note\n1,2,x\n2,2,x\n3,3,x\n4,5,x\n";
    let samples = read(&by_machine(rule.clone()), text).unwrap();
    let sides: Vec<Split> = samples.iter().map(|sample| sample.split).collect();
    assert_eq!(sides, [Split::Holdout, Split::Holdout, Split::Train, Split::Holdout]);
    let error = read(&by_machine(rule), "a,person,note\n1,anna,x\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 2: the split needs a whole number in column 'person', 'anna' is none"
    );
}

#[test]
fn a_split_by_a_column_needs_it_and_a_value_in_it() {
    let refused = |import: &ImportSpec, text: &str| read(import, text).unwrap_err().to_string();
    let mut of_series = series();
    of_series.split = hash_of("x");
    let table = [
        refused(&by_machine(hash_of("machine")), "a,note\n1,x\n"),
        refused(&by_machine(hash_of("machine")), "a,machine,note\n1,,x\n"),
        refused(&of_series, HEADER),
    ];
    insta::assert_snapshot!(table.join("\n"), @r"
    no column is named 'machine'; the file has a, note
    line 2, column 'machine': empty, and the split needs to know what the line belongs together with
    the split rule is not usable: 'x' is none of the case columns (split, case): a case never straddles splits
    ");
    // A case column divides recordings: everything of one value goes to one side.
    of_series.split = hash_of("split");
    let text = format!("{HEADER}a,0,0,1,2,l\na,0,1,1,2,l\na,1,0,1,2,l\na,1,1,1,2,l\n");
    let samples = read(&of_series, &text).unwrap();
    assert_eq!(samples[0].split, samples[1].split);
}

proptest! {
    #[test]
    fn any_bytes_end_in_samples_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(reader) = SampleReader::new(bytes.as_slice(), &rows()) {
            for sample in reader {
                if sample.is_err() { break; }
            }
        }
        let mut text = HEADER.as_bytes().to_vec();
        text.extend(bytes);
        if let Ok(reader) = SampleReader::new(text.as_slice(), &series()) {
            prop_assert!(reader.count() <= 300);
        }
    }
}
