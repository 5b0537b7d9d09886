//! Stacks as perf prints them, and their flame graph: a box per function, as wide as its share of
//! the samples, above what called it.

use std::{collections::BTreeMap, fmt::Write};

use super::plot::escaped;

/// A process' name, then functions, the outermost first.
pub type Stack = Vec<String>;

const WIDTH: f64 = 1200.0;
const ROW: f64 = 17.0;
/// Of the whole; what is narrower is left out.
const NARROWEST: f64 = 0.003;

/// How often each stack was met. `names` are those of processes whose threads go by others.
pub fn stacks(script: &str, names: &BTreeMap<u32, String>) -> BTreeMap<Stack, usize> {
    let mut all = BTreeMap::new();
    for sample in script.split("\n\n") {
        let mut lines = sample.lines().filter(|line| !line.trim().is_empty());
        let Some(head) = lines.next() else { continue };
        let mut functions = functions(lines);
        functions.push(process(head, names));
        functions.reverse();
        functions.dedup();
        *all.entry(functions).or_default() += 1;
    }
    all
}

/// `comm pid` or `comm pid:`; the name may hold spaces.
fn process(head: &str, names: &BTreeMap<u32, String>) -> String {
    let (comm, pid) = head.trim_end_matches([':', ' ']).rsplit_once(' ').unwrap_or((head, ""));
    let known = pid.parse().ok().and_then(|pid: u32| names.get(&pid).cloned());
    known.unwrap_or_else(|| comm.trim().to_owned())
}

/// What every thread and every future begins with says nothing.
const FRAMES_OF_ALL: [&str; 14] = [
    "_start",
    "__libc_start",
    "start_thread",
    "clone3",
    "main",
    "std::",
    "core::",
    "<core::",
    "<alloc::",
    "<std::",
    "tokio::runtime",
    "<tokio::runtime",
    "tokio::task",
    "__rust",
];

/// The innermost first. What the kernel does is one frame, named after the call that asked for it.
fn functions<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut functions = Vec::new();
    let mut in_kernel = false;
    for line in lines {
        let Some((symbol, file)) = function(line) else { continue };
        if file.starts_with("[kernel") {
            in_kernel = true;
            if let Some(call) = symbol.strip_prefix("__x64_sys_").or_else(|| symbol.strip_prefix("__arm64_sys_")) {
                functions.push(format!("kernel: {call}"));
            }
            continue;
        }
        if in_kernel && functions.is_empty() {
            functions.push("kernel".to_owned());
        }
        if symbol != "[unknown]" && !FRAMES_OF_ALL.iter().any(|boring| symbol.starts_with(boring)) {
            functions.push(symbol.to_owned());
        }
    }
    if in_kernel && functions.is_empty() {
        functions.push("kernel".to_owned());
    }
    functions
}

/// Symbol and file of `address symbol+offset (file)`.
fn function(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.trim().split_once(' ')?;
    let (symbol, file) = rest.rsplit_once(" (")?;
    let symbol = symbol.trim().rsplit_once("+0x").map_or(symbol.trim(), |(name, _)| name);
    let symbol = match symbol.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 => name,
        _ => symbol,
    };
    Some((symbol, file))
}

/// A function with all that it called.
#[derive(Default)]
struct Frame {
    samples: usize,
    called: BTreeMap<String, Frame>,
}

impl Frame {
    fn add(&mut self, stack: &[String], samples: usize) {
        self.samples += samples;
        if let Some((first, rest)) = stack.split_first() {
            self.called.entry(first.clone()).or_default().add(rest, samples);
        }
    }

    fn depth(&self, narrowest: f64) -> usize {
        let wide = self.called.values().filter(|frame| frame.samples as f64 >= narrowest);
        wide.map(|frame| 1 + frame.depth(narrowest)).max().unwrap_or_default()
    }
}

/// An SVG; each box says its whole name and share when it is pointed at.
pub fn draw(stacks: &BTreeMap<Stack, usize>) -> String {
    let mut root = Frame::default();
    for (stack, samples) in stacks {
        root.add(stack, *samples);
    }
    let all = root.samples as f64;
    let height = (root.depth(all * NARROWEST) + 3) as f64 * ROW;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"monospace\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"6\" y=\"16\" font-size=\"14\">CPU of a burst over Sluice, Postgres and Redis: {} samples</text>\n",
        root.samples
    );
    boxes(&mut svg, &root, 0.0, height - ROW, all);
    svg + "</svg>\n"
}

fn boxes(svg: &mut String, frame: &Frame, left: f64, y: f64, all: f64) {
    let mut x = left;
    for (name, called) in &frame.called {
        let share = called.samples as f64 / all;
        let width = share * WIDTH;
        if share >= NARROWEST {
            one(svg, name, share, (x, y, width));
            boxes(svg, called, x, y - ROW, all);
        }
        x += width;
    }
}

fn one(svg: &mut String, name: &str, share: f64, (x, y, width): (f64, f64, f64)) {
    let (label, percent) = (escaped(&short(name, (width / 6.8) as usize)), share * 100.0);
    let (name, colour) = (escaped(name), colour(name));
    let (down, inside) = (y + ROW - 5.0, x + 3.0);
    let _ = writeln!(
        svg,
        "<g><title>{name}: {percent:.1} %</title><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" \
         fill=\"{colour}\"/><text x=\"{inside:.1}\" y=\"{down:.1}\">{label}</text></g>",
        (width - 0.5).max(0.3),
        ROW - 1.0,
    );
}

/// The last parts of a path, as many as fit.
fn short(name: &str, characters: usize) -> String {
    let mut rest = name;
    while rest.chars().count() > characters {
        match rest.split_once("::") {
            Some((_, inner)) => rest = inner,
            None => break,
        }
    }
    if characters < 3 { String::new() } else { rest.chars().take(characters).collect() }
}

/// Green: ours; violet: crates; orange: C; blue: the kernel.
fn colour(name: &str) -> &'static str {
    let ours = ["sluice::", "workflows::"].iter().any(|part| name.contains(part));
    match () {
        () if ours => "#7fc97f",
        () if name.starts_with("kernel") => "#b3cde3",
        () if name.contains("::") => "#beaed4",
        () if name.starts_with("sluice") || name.starts_with("postgres") || name.starts_with("redis") => "#d9d9d9",
        () => "#fdc086",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "tokio-rt-worker 12 \n\t 3b58c0 [unknown] (/bin/x)\n\t 366693 a::b::h0123456789abcdef+0x193 (/bin/x)\n\
        \t 2 a::c (/bin/x)\n\t 1 main+0x1 (/bin/x)\n\n\
        postgres 13 \n\t 1 tcp_ack ([kernel.kallsyms])\n\t 2 __x64_sys_sendto ([kernel.kallsyms])\n\
        \t 3 do_syscall_64 ([kernel.kallsyms])\n\t 5d48d0 secure_write+0xd9 (/usr/bin/postgres)\n\n";

    #[test]
    fn stacks_begin_with_their_process_and_leave_out_what_is_unknown() {
        let names = BTreeMap::from([(12, "sluice relay".to_owned())]);

        let stacks = stacks(SCRIPT, &names);

        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let expected = [
            (words(&["sluice relay", "a::c", "a::b"]), 1),
            (words(&["postgres", "secure_write", "kernel: sendto"]), 1),
        ];
        assert_eq!(stacks, BTreeMap::from(expected));
        let svg = draw(&stacks);
        assert!(svg.contains("<title>a::b: 50.0 %</title>"), "{svg}");
    }
}
