//! How long the other side asks to be left alone. A date is counted from the response's own `Date`,
//! so that a clock that is wrong, theirs or ours, does not matter.

use std::time::Duration;

/// The longest that is believed: then the host is asked again.
const CAP: Duration = Duration::from_secs(300);

/// A `Retry-After`, never longer than five minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RetryAfter(Duration);

impl RetryAfter {
    /// What a 429 without the header is taken for.
    pub const UNSAID: Self = Self(Duration::from_secs(5));

    /// Reads the header: seconds, or a date counted from the response's `Date`. `None` where it is
    /// neither, or a date without a readable `Date` to count from.
    pub fn parse(header: &str, date: Option<&str>) -> Option<Self> {
        let header = header.trim();
        if !header.is_empty() && header.bytes().all(|byte| byte.is_ascii_digit()) {
            // Digits that overflow are a very long time.
            return Some(Self(header.parse().map_or(CAP, Duration::from_secs).min(CAP)));
        }
        let until = httpdate::parse_http_date(header).ok()?;
        let from = httpdate::parse_http_date(date?.trim()).ok()?;
        Some(Self(until.duration_since(from).unwrap_or(Duration::ZERO).min(CAP)))
    }

    pub fn duration(self) -> Duration {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: &str = "Sun, 22 Nov 2026 12:00:00 GMT";

    #[test]
    fn seconds_and_dates_are_read_up_to_the_cap_and_nothing_else_is() {
        for (header, date, seconds) in [
            ("0", None, Some(0)),
            (" 7 ", None, Some(7)),
            ("86400", None, Some(300)),
            ("99999999999999999999999999", None, Some(300)),
            ("Sun, 22 Nov 2026 12:00:42 GMT", Some(NOON), Some(42)),
            ("Mon, 23 Nov 2026 12:00:00 GMT", Some(NOON), Some(300)),
            ("Sun, 22 Nov 2026 11:00:00 GMT", Some(NOON), Some(0)),
            ("", None, None),
            ("-1", None, None),
            ("1.5", None, None),
            ("soon", Some(NOON), None),
            (NOON, None, None),
            (NOON, Some("noon"), None),
        ] {
            let read = RetryAfter::parse(header, date).map(|after| after.duration().as_secs());
            assert_eq!(read, seconds, "{header:?} from {date:?}");
        }
    }
}
