//! Which characters may stand in names and labels, and how foreign text is shown: what moves a cursor, starts an escape
//! sequence or turns the reading direction around can make a person read something else than what is there.
//!
//! It does not judge look-alike letters: words of every script are welcome.

use std::borrow::Cow;

/// A control character, a line or paragraph separator, or one of Unicode's bidirectional controls.
pub fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// Why a text cannot be a name, a label or anything else that stands on one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} '{}' contains the character U+{:04X}: control characters and changes of the reading direction are refused",
    escaped(text),
    u32::from(*character)
)]
pub struct Deceptive {
    pub what: String,
    pub text: String,
    pub character: char,
}

/// Refuses a text that would be read as something else.
pub fn check(what: &str, text: &str) -> Result<(), Deceptive> {
    match text.chars().find(|character| is_deceptive(*character)) {
        None => Ok(()),
        Some(character) => Err(Deceptive {
            what: what.to_owned(),
            text: text.to_owned(),
            character,
        }),
    }
}

/// The text with every deceptive character written out: `\u{1b}`.
pub fn escaped(text: &str) -> Cow<'_, str> {
    escaped_but(text, |_| false)
}

/// The same, but for characters that the place where it is shown can take.
pub fn escaped_but(text: &str, harmless: impl Fn(char) -> bool) -> Cow<'_, str> {
    let hide = |character: char| is_deceptive(character) && !harmless(character);
    if !text.chars().any(hide) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if hide(character) {
            out.extend(character.escape_unicode());
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_every_script_pass_and_what_deceives_does_not() {
        for good in ["motions", "Wälzlager 3,5 µm", "насос", "مضخة", "ポンプ", "👩‍🔧", ""] {
            assert_eq!(check("label", good), Ok(()), "{good}");
            assert_eq!(escaped(good), good);
        }
        for bad in [
            "\u{1b}[2K",
            "a\rb",
            "a\nb",
            "\u{9b}1A",
            "gpj\u{202e}exe",
            "\u{2066}x",
            "a\u{2028}b",
            "\u{7f}",
        ] {
            assert!(check("label", bad).is_err(), "{bad:?}");
            assert!(!escaped(bad).chars().any(is_deceptive), "{bad:?}");
        }
        assert_eq!(escaped("a\u{1b}[1A\u{202e}b"), "a\\u{1b}[1A\\u{202e}b");
        assert_eq!(escaped_but("a\nb\u{1b}", |character| character == '\n'), "a\nb\\u{1b}");
    }

    #[test]
    fn the_refusal_itself_can_be_shown() {
        let why = check("label", "ok\u{1b}[2Aevil").unwrap_err().to_string();
        assert!(!why.chars().any(is_deceptive), "{why:?}");
        assert!(why.contains("U+001B") && why.contains("label"), "{why}");
    }
}
