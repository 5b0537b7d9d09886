//! Texts into numbers, durations and switches. A text that is none leaves a fault and no value, so
//! that reading goes on and the next fault is found too.

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

    /// What one of these names stands for.
    pub fn choice<T: Copy>(&mut self, setting: &str, text: &str, choices: &[(&str, T)]) -> Option<T> {
        if let Some((_, chosen)) = choices.iter().find(|(name, _)| *name == text.trim()) {
            return Some(*chosen);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let (last, others) = names.split_last().unwrap_or((&"nothing", &[]));
        self.refuse(setting, text, format!("expected {} or {last}", others.join(", ")))
    }

    pub fn number<T>(&mut self, setting: &str, text: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        let number = text.trim().parse().ok().filter(|number| range.contains(number));
        let expected = format!("expected a number from {} to {}", range.start(), range.end());
        number.or_else(|| self.refuse(setting, text, expected))
    }

    pub fn duration(&mut self, setting: &str, text: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let show = humantime::format_duration;
        let problem = match humantime::parse_duration(text.trim()) {
            Ok(duration) if range.contains(&duration) => return Some(duration),
            Ok(_) => format!("expected a duration from {} to {}", show(*range.start()), show(*range.end())),
            Err(_) => "is no duration: write a number and its unit, e.g. 500ms, 25s or 24h".to_owned(),
        };
        self.refuse(setting, text, problem)
    }

    pub fn switch(&mut self, setting: &str, text: &str) -> Option<bool> {
        let switch = match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => None,
        };
        switch.or_else(|| self.refuse(setting, text, "expected true or false"))
    }
}
