//! Times as the API writes them: RFC 3339 in UTC with milliseconds, from and to Unix milliseconds.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// RFC 3339 in UTC with milliseconds. What no calendar of four-digit years holds is shown as the nearest that one does.
#[must_use]
pub fn rfc3339(ms: i64) -> String {
    let nanos = i128::from(ms) * 1_000_000;
    let at = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or_else(|_beyond| {
        let end = if ms < 0 { time::Date::MIN } else { time::Date::MAX };
        end.midnight().assume_utc()
    });
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond()
    )
}

/// Unix milliseconds of an RFC 3339 time (`2026-11-23T02:00:00Z`, with fraction and offset if there are any).
#[must_use]
pub fn from_rfc3339(text: &str) -> Option<i64> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_827_696_789), "2000-02-29T12:34:56.789Z");
        assert_eq!(rfc3339(1_795_399_200_000), "2026-11-23T02:00:00.000Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(i64::MAX), "9999-12-31T00:00:00.000Z");
    }

    #[test]
    fn times_are_read_back() {
        for ms in [0, 951_827_696_789, 1_795_399_200_000, -1, -62_135_596_800_000] {
            assert_eq!(from_rfc3339(&rfc3339(ms)), Some(ms), "{}", rfc3339(ms));
        }
        for (text, ms) in [
            ("2026-11-23T02:00:00Z", 1_795_399_200_000),
            ("2026-11-23T04:30:00.25+02:30", 1_795_399_200_250),
            ("2026-11-22t21:00:00-05:00", 1_795_399_200_000),
        ] {
            assert_eq!(from_rfc3339(text), Some(ms), "{text}");
        }
        for bad in [
            "",
            "2026-11-23",
            "2026-02-30T00:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T02:00:00",
            "1-2-3T4:5:6Z",
        ] {
            assert_eq!(from_rfc3339(bad), None, "{bad}");
        }
    }
}
