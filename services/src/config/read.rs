//! Texts into numbers, durations and switches. A text that is none leaves a fault and no value, so that reading goes on
//! and the next fault is found too.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr, time::Duration};

use super::Faults;

impl Faults {
    /// The value of a setting that cannot be left out.
    pub fn required<'a>(&mut self, setting: &str, given: Option<&'a str>, what: &str) -> Option<&'a str> {
        if given.is_none() {
            self.add_unset(setting, format!("is not set: {what}"));
        }
        given
    }

    pub fn number<T>(&mut self, setting: &str, text: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        match text.trim().parse() {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                self.add(setting, text, format!("expected a number from {} to {}", range.start(), range.end()));
                None
            }
        }
    }

    pub fn duration(&mut self, setting: &str, text: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let show = humantime::format_duration;
        match humantime::parse_duration(text.trim()) {
            Ok(duration) if range.contains(&duration) => Some(duration),
            Ok(_) => {
                let (from, to) = (show(*range.start()), show(*range.end()));
                self.add(setting, text, format!("expected a duration from {from} to {to}"));
                None
            }
            Err(_) => {
                self.add(setting, text, "is no duration: write a number and its unit, e.g. 500ms, 25s or 24h");
                None
            }
        }
    }

    pub fn switch(&mut self, setting: &str, text: &str) -> Option<bool> {
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => {
                self.add(setting, text, "expected true or false");
                None
            }
        }
    }
}
