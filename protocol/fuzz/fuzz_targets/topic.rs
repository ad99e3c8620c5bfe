//! Topics as clients send them: one spelling each, and no device reaches another's.
#![no_main]

use flotilla_protocol::ids::DeviceId;
use flotilla_protocol::topics::{Topic, may_publish, may_subscribe};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(topic) = text.parse::<Topic>() {
        assert_eq!(topic.to_string(), text);
    }
    let (own, other) = (DeviceId::new("a").expect("an id"), DeviceId::new("b").expect("an id"));
    assert!(!(may_publish(&own, text) && may_publish(&other, text)));
    if may_subscribe(&own, text) && may_subscribe(&other, text) {
        assert!(!text.contains('+') && !text.contains("/d/"), "shared: {text}");
    }
});
