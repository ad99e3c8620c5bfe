//! MQTT topics, typed in both directions. No topic literal stands anywhere else.
//!
//! Devices publish only below `flotilla/v1/d/{id}/up/` and subscribe only to `flotilla/v1/d/{id}/down/#`, the shared
//! `flotilla/v1/head` and single blobs' `flotilla/v1/blob/{digest}/#`. Two trees, because with one a device could publish
//! to itself and never read, which grows the broker's memory.

use std::fmt;
use std::str::FromStr;

use crate::ids::{DeviceId, Digest};

const ROOT: &str = "flotilla/v1";

/// What a device may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Up {
    Hello,
    Report,
    Bundle,
    Want,
    Sample,
    Result,
}

/// What the server says to one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Down {
    Desired,
    Head,
    Receipt,
    Chunk,
    Command,
}

macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

words!(Up { Hello = "hello", Report = "report", Bundle = "bundle", Want = "want", Sample = "sample", Result = "result" });
words!(Down { Desired = "desired", Head = "head", Receipt = "receipt", Chunk = "chunk", Command = "command" });

/// A topic to publish on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topic {
    Up(DeviceId, Up),
    Down(DeviceId, Down),
    /// The fleet's `Head`, the same for everybody.
    Head,
    /// One chunk of a blob on the shared carousel.
    Blob(Digest, u32),
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up(device, up) => write!(f, "{ROOT}/d/{device}/up/{}", up.as_str()),
            Self::Down(device, down) => write!(f, "{ROOT}/d/{device}/down/{}", down.as_str()),
            Self::Head => write!(f, "{ROOT}/head"),
            Self::Blob(digest, index) => write!(f, "{ROOT}/blob/{}/{index}", digest.hex()),
        }
    }
}

/// The text is not one of our topics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a Flotilla topic")]
pub struct TopicError(String);

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        let refused = || TopicError(text.chars().take(120).collect());
        let levels: Vec<&str> = below_root(text).ok_or_else(refused)?.split('/').take(6).collect();
        let device = |id: &str| DeviceId::new(id).map_err(|_malformed| refused());
        match levels.as_slice() {
            ["head"] => Ok(Self::Head),
            ["d", id, "up", word] => Ok(Self::Up(device(id)?, Up::parse(word).ok_or_else(refused)?)),
            ["d", id, "down", word] => Ok(Self::Down(device(id)?, Down::parse(word).ok_or_else(refused)?)),
            ["blob", digest, index] => {
                let digest = Digest::from_hex(digest).map_err(|_malformed| refused())?;
                let number: u32 = index.parse().map_err(|_not_a_number| refused())?;
                // One name per chunk: `+7` and `07` are refused.
                if number.to_string() != **index {
                    return Err(refused());
                }
                Ok(Self::Blob(digest, number))
            }
            _ => Err(refused()),
        }
    }
}

fn below_root(text: &str) -> Option<&str> {
    text.strip_prefix(ROOT)?.strip_prefix('/')
}

/// The filters that subscribe: devices to their own, the server to everybody's `up`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Everything the server says to this device.
    DeviceDown(DeviceId),
    Head,
    /// Every chunk of one blob on the carousel.
    Blob(Digest),
    /// Everything all devices say (the server's own subscription).
    AllUp,
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeviceDown(device) => write!(f, "{ROOT}/d/{device}/down/#"),
            Self::Head => write!(f, "{ROOT}/head"),
            Self::Blob(digest) => write!(f, "{ROOT}/blob/{}/#", digest.hex()),
            Self::AllUp => write!(f, "{ROOT}/d/+/up/#"),
        }
    }
}

/// May the device publish on this topic? Its own `up` tree, known words only.
pub fn may_publish(device: &DeviceId, topic: &str) -> bool {
    matches!(topic.parse(), Ok(Topic::Up(owner, _)) if owner == *device)
}

/// May the device subscribe with this filter? Its own `down` tree, `Head`, and one named blob; wildcards elsewhere and
/// shared subscriptions (`$share/…`) are refused.
pub fn may_subscribe(device: &DeviceId, filter: &str) -> bool {
    if filter == Filter::DeviceDown(device.clone()).to_string() || filter == Filter::Head.to_string() {
        return true;
    }
    if matches!(filter.parse(), Ok(Topic::Down(owner, _)) if owner == *device) {
        return true;
    }
    let digest = below_root(filter)
        .and_then(|f| f.strip_prefix("blob/"))
        .and_then(|f| f.strip_suffix("/#"));
    digest.is_some_and(|hex| Digest::from_hex(hex).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> DeviceId {
        DeviceId::new(text).unwrap()
    }

    #[test]
    fn topics_read_back() {
        let mut all: Vec<Topic> = vec![Topic::Head, Topic::Blob(Digest::of(b"x"), 7)];
        all.extend(Up::ALL.iter().map(|up| Topic::Up(id("a"), *up)));
        all.extend(Down::ALL.iter().map(|down| Topic::Down(id("a"), *down)));
        for topic in all {
            assert_eq!(topic.to_string().parse::<Topic>().unwrap(), topic);
        }
    }

    #[test]
    fn a_chunk_has_one_name() {
        let topic = Topic::Blob(Digest::of(b"x"), 7).to_string();
        for index in ["+7", "07", "-7", "7 ", "", "4294967296"] {
            let other = topic.replace("/7", &format!("/{index}"));
            assert!(other.parse::<Topic>().is_err(), "{other} must be refused");
        }
    }

    #[test]
    fn a_device_reaches_its_own_alone() {
        let me = id("a");
        assert!(may_publish(&me, "flotilla/v1/d/a/up/bundle"));
        for refused in [
            "flotilla/v1/d/b/up/bundle",
            "flotilla/v1/d/a/down/desired",
            "flotilla/v1/d/a/up/bundle/x",
            "flotilla/v1/d/a/up/unknown",
            "flotilla/v1/head",
            "flotilla/v1x/d/a/up/bundle",
            "$SYS/x",
            "",
        ] {
            assert!(!may_publish(&me, refused), "publish on '{refused}' must be refused");
        }
        let blob = format!("flotilla/v1/blob/{}/#", Digest::of(b"x").hex());
        for allowed in [
            "flotilla/v1/d/a/down/#",
            "flotilla/v1/d/a/down/chunk",
            "flotilla/v1/head",
            &blob,
        ] {
            assert!(may_subscribe(&me, allowed), "subscribe to '{allowed}' must be allowed");
        }
        for refused in [
            "#",
            "flotilla/#",
            "flotilla/v1/d/+/down/#",
            "flotilla/v1/d/b/down/#",
            "flotilla/v1/d/a/up/#",
            "flotilla/v1/blob/+/#",
            "flotilla/v1/blob/#",
            "$share/g/flotilla/v1/d/a/down/#",
        ] {
            assert!(!may_subscribe(&me, refused), "subscribe to '{refused}' must be refused");
        }
    }
}
