//! What a device's tags may be, whoever sets them.

use std::collections::BTreeMap;

/// Most tags of a device, and most characters of a tag.
pub const MAX_TAGS: usize = 64;
const MAX_TAG_CHARS: usize = 256;

/// Why tags are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TagsError {
    #[error("a device has at most {MAX_TAGS} tags of at most {MAX_TAG_CHARS} characters")]
    TooMuch,
    #[error("a tag has a name")]
    NoName,
}

pub fn check(tags: &BTreeMap<String, String>) -> Result<(), TagsError> {
    let too_long = |text: &String| text.chars().count() > MAX_TAG_CHARS;
    if tags.len() > MAX_TAGS || tags.iter().any(|(key, value)| too_long(key) || too_long(value)) {
        return Err(TagsError::TooMuch);
    }
    if tags.keys().any(String::is_empty) {
        return Err(TagsError::NoName);
    }
    Ok(())
}

/// Would the device have more tags than it may? One that has too many already may lose some or have others in their place.
pub fn grow_too_many(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> bool {
    after.len() > MAX_TAGS && after.len() > before.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(count: usize) -> BTreeMap<String, String> {
        (0..count).map(|i| (format!("t{i}"), "x".to_owned())).collect()
    }

    #[test]
    fn tags_have_names_and_are_neither_many_nor_long() {
        assert_eq!(check(&tags(MAX_TAGS)), Ok(()));
        assert_eq!(check(&tags(MAX_TAGS + 1)), Err(TagsError::TooMuch));
        let one = |key: &str, value: String| BTreeMap::from([(key.to_owned(), value)]);
        assert_eq!(check(&one("a", "x".repeat(MAX_TAG_CHARS + 1))), Err(TagsError::TooMuch));
        assert_eq!(check(&one("", "x".to_owned())), Err(TagsError::NoName));
    }

    #[test]
    fn too_many_may_become_fewer() {
        assert!(grow_too_many(&tags(MAX_TAGS), &tags(MAX_TAGS + 1)));
        assert!(!grow_too_many(&tags(MAX_TAGS + 5), &tags(MAX_TAGS + 4)));
        assert!(!grow_too_many(&tags(1), &tags(MAX_TAGS)));
    }
}
