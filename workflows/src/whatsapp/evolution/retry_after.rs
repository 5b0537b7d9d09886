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

    fn seconds(header: &str, date: Option<&str>) -> Option<u64> {
        RetryAfter::parse(header, date).map(|after| after.duration().as_secs())
    }

    #[test]
    fn seconds_are_taken_as_they_are_up_to_the_cap() {
        assert_eq!(seconds("0", None), Some(0));
        assert_eq!(seconds(" 7 ", None), Some(7));
        assert_eq!(seconds("86400", None), Some(300));
        assert_eq!(seconds("99999999999999999999999999", None), Some(300));
    }

    #[test]
    fn a_date_is_counted_from_the_responses_own_date() {
        assert_eq!(seconds("Sun, 22 Nov 2026 12:00:42 GMT", Some(NOON)), Some(42));
        assert_eq!(seconds("Mon, 23 Nov 2026 12:00:00 GMT", Some(NOON)), Some(300));
        assert_eq!(seconds("Sun, 22 Nov 2026 11:00:00 GMT", Some(NOON)), Some(0));
    }

    #[test]
    fn what_is_neither_says_nothing() {
        for (header, date) in
            [("", None), ("-1", None), ("1.5", None), ("soon", Some(NOON)), (NOON, None), (NOON, Some("noon"))]
        {
            assert_eq!(seconds(header, date), None, "{header:?} from {date:?}");
        }
    }
}
