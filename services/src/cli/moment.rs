//! Moments as people say them: `3m ago`, `in 2h`.

use chrono::{DateTime, TimeDelta, Utc};

/// How far a moment is from now, in its largest unit.
pub fn relative(moment: DateTime<Utc>) -> String {
    from(moment, Utc::now())
}

/// When an event was published, if it was.
pub fn published(at: Option<DateTime<Utc>>) -> String {
    at.map_or_else(|| "not yet".to_owned(), relative)
}

fn from(moment: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let since = now - moment;
    match since < TimeDelta::zero() {
        true => format!("in {}", span(-since)),
        false => format!("{} ago", span(since)),
    }
}

/// A length of time in its largest unit, below a second in milliseconds.
pub fn span(length: TimeDelta) -> String {
    let (seconds, milliseconds) = (length.num_seconds(), length.num_milliseconds());
    match seconds {
        ..1 => format!("{milliseconds}ms"),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_in_its_largest_unit() {
        let now = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::days(30);
        let told = [
            (TimeDelta::milliseconds(250), "250ms ago"),
            (TimeDelta::seconds(59), "59s ago"),
            (TimeDelta::seconds(60), "1m ago"),
            (TimeDelta::minutes(119), "1h ago"),
            (TimeDelta::hours(47), "47h ago"),
            (TimeDelta::hours(48), "2d ago"),
            (TimeDelta::seconds(-90), "in 1m"),
        ];

        for (since, text) in told {
            assert_eq!(from(now - since, now), text);
        }
    }
}
