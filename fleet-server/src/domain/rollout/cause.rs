//! What failures have in common. Devices say in their own words why they failed, each with its own paths, ids, digests and
//! figures; without these, the same failure on forty devices is one line. Pure.

use flotilla_protocol::ids::DeviceId;
use flotilla_protocol::text::is_deceptive;

/// Of failures that nobody gave a reason for.
pub const NO_REASON: &str = "no reason given";
/// Longest cause, characters.
const MAX_CHARS: usize = 240;

/// The reason without what differs from device to device: paths and addresses become `<path>` and `<url>`, ids and digests
/// `<id>` and `<digest>`, the device's own id `<device>`, figures `#`. Numbers of the operating system's errors stay, and so
/// do short names with a digit in them (`aarch64`, `int8`). The cause of a cause is itself.
pub fn cause_of(reason: Option<&str>, device: Option<&DeviceId>) -> String {
    let plain: String = reason
        .unwrap_or_default()
        .chars()
        .map(|c| if is_deceptive(c) { ' ' } else { c })
        .collect();
    let words: Vec<&str> = plain.split_whitespace().collect();
    if words.is_empty() {
        return NO_REASON.to_owned();
    }
    let words = words.join(" ");
    let mut folded = fold(&device.map_or_else(|| words.clone(), |device| without(&words, device.as_str())));
    for exponent in ["#e-#", "#e+#", "#e#"] {
        while folded.contains(exponent) {
            folded = folded.replace(exponent, "#");
        }
    }
    let folded = folded.replace("sha256:<digest>", "<digest>");
    if folded.chars().count() <= MAX_CHARS {
        return folded;
    }
    let cut: String = folded.chars().take(MAX_CHARS - 1).collect();
    format!("{}…", cut.trim_end())
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// With `<device>` where the device's id stands as a word.
fn without(text: &str, device: &str) -> String {
    let part_of_id = |c: char| is_word(c) || c == '-';
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(device) {
        let (before, from) = rest.split_at(at);
        let after = from.strip_prefix(device).unwrap_or_default();
        out.push_str(before);
        let within = out.ends_with(part_of_id) || after.starts_with(part_of_id);
        out.push_str(if within { device } else { "<device>" });
        rest = after;
    }
    out.push_str(rest);
    out
}

/// What a path or an address ends at.
fn ends_path(c: char) -> bool {
    c.is_whitespace()
        || matches!(
            c,
            '…' | '\'' | '"' | '`' | ',' | ';' | '(' | ')' | '[' | ']' | '{' | '}' | '<' | '>' | '='
        )
}

fn fold(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    // Whether a path, an address or a sign may begin here.
    let mut at_start = true;
    while let Some(first) = rest.chars().next() {
        let path = if at_start { path_of(rest) } else { None };
        let (taken, written) = if let Some((length, name)) = path {
            (length, name.to_owned())
        } else if is_uuid(rest) {
            (UUID, "<id>".to_owned())
        } else if is_word(first) {
            let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let word = rest.get(..length).unwrap_or(rest);
            (length, word_of(word, out.ends_with("os error ")))
        } else if first == '-' && at_start && rest.chars().nth(1).is_some_and(|c| c.is_ascii_digit()) {
            (1, String::new())
        } else {
            (first.len_utf8(), first.to_string())
        };
        // A figure's fraction is part of it.
        if written.starts_with('#') && first != '#' && out.ends_with("#.") {
            out.truncate(out.len() - 2);
        }
        out.push_str(&written);
        at_start = first != '>' && (ends_path(first) || first == ':');
        rest = rest.get(taken..).unwrap_or_default();
    }
    out
}

/// A path or an address at the beginning of the text: how long it is, and what stands for it.
fn path_of(text: &str) -> Option<(usize, &'static str)> {
    let end = text.find(ends_path).unwrap_or(text.len());
    let run = text.get(..end)?.trim_end_matches([':', '.']);
    if run.contains("://") {
        return Some((run.len(), "<url>"));
    }
    let rooted = ["/", "./", "../", "~/"].iter().any(|root| run.starts_with(root));
    let is_path = (rooted && run.len() > 1) || run.matches('/').count() > 1;
    is_path.then_some((run.len(), "<path>"))
}

/// Characters of a UUID.
const UUID: usize = 36;

fn is_uuid(text: &str) -> bool {
    let Some(head) = text.get(..UUID) else { return false };
    let ended = !text.get(UUID..).is_some_and(|rest| rest.starts_with(is_word));
    ended
        && head.chars().enumerate().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        })
}

/// A word as causes have it.
fn word_of(word: &str, is_error_number: bool) -> String {
    const SHORT_NAME: usize = 8;
    const SHORT_ID: usize = 8;
    const DIGEST: usize = 32;
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    if is_error_number || digits == 0 {
        return word.to_owned();
    }
    let is_hex = word.bytes().all(|byte| byte.is_ascii_hexdigit()) && digits < word.len();
    if is_hex && word.len() >= SHORT_ID {
        return if word.len() >= DIGEST { "<digest>" } else { "<id>" }.to_owned();
    }
    if word.starts_with(|c: char| !c.is_ascii_digit()) && word.len() <= SHORT_NAME {
        return word.to_owned();
    }
    let mut out = String::new();
    for c in word.chars() {
        match c {
            '0'..='9' if out.ends_with('#') => {}
            '0'..='9' => out.push('#'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cause(reason: &str) -> String {
        cause_of(Some(reason), Some(&DeviceId::new("press-07").unwrap()))
    }

    #[test]
    fn what_differs_from_device_to_device_is_folded() {
        for (reason, expected) in [
            (
                "disk full: /var/lib/flotilla/slots/main/b/model.onnx: No space left on device (os error 28)",
                "disk full: <path>: No space left on device (os error 28)",
            ),
            ("golden outputs differ by 0.31", "golden outputs differ by #"),
            (
                "golden outputs differ by -1.5e-7, 1e5 or 1.25e+3",
                "golden outputs differ by #, # or #",
            ),
            (
                "golden case 3, output 'scores': [0.1] where the trainer had [0.2]",
                "golden case #, output 'scores': [#] where the trainer had [#]",
            ),
            (
                "architecture 'x86_64' is not among [\"aarch64\"]",
                "architecture 'x86_64' is not among [\"aarch64\"]",
            ),
            (
                "536870912 bytes of RAM where 1073741824 are needed",
                "# bytes of RAM where # are needed",
            ),
            (
                "the server does not have blob sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "the server does not have blob <digest>",
            ),
            ("manifest 9f86d081884c was staged", "manifest <id> was staged"),
            (
                "deployment 0192f0c1-0000-7000-8000-1000000000af took its place",
                "deployment <id> took its place",
            ),
            (
                "press-07 says no, press-071 does not",
                "<device> says no, press-# does not",
            ),
            ("superseded at 2026-11-26T21:05:22.123Z", "superseded at #-#-#T#:#:#Z"),
            (
                "cannot reach https://10.0.0.7:8443/v1/blob: timed out after 30s",
                "cannot reach <url>: timed out after #s",
            ),
            ("a\u{1b}[1mbold\u{202e}\n  move", "a [#mbold move"),
            ("n/a, 5 MiB/s", "n/a, # MiB/s"),
            (" \n", NO_REASON),
        ] {
            assert_eq!(cause(reason), expected, "{reason}");
        }
        assert_eq!(cause_of(None, None), NO_REASON);
    }

    #[test]
    fn what_is_another_failure_stays_one() {
        let causes = [
            "write /a/b: No space left on device (os error 28)",
            "write /a/b: Input/output error (os error 5)",
            "hardware class 'pi-5' is not among [\"jetson\"]",
            "nothing was heard of the device for 86400 s",
        ]
        .map(cause);
        let distinct: std::collections::BTreeSet<_> = causes.iter().collect();
        assert_eq!(distinct.len(), causes.len(), "{causes:?}");
    }

    proptest! {
        /// Whatever devices say: a cause is short, plain, never empty, and its own cause.
        #[test]
        fn causes_are_plain_short_and_their_own(reason in "\\PC{0,400}|[0-9a-f:/.e \\-]{0,300}|.{0,80}") {
            let once = cause(&reason);
            prop_assert!(!once.is_empty() && once.chars().count() <= MAX_CHARS);
            prop_assert!(!once.chars().any(is_deceptive));
            prop_assert_eq!(cause(&once), once);
        }

        /// The figures of a reason do not matter.
        #[test]
        fn figures_do_not_matter(one in any::<u32>(), other in any::<f32>().prop_filter("finite", |x| x.is_finite())) {
            prop_assert_eq!(cause(&format!("p95 {one} us, budget {other} us")), "p95 # us, budget # us");
        }
    }
}
