//! Reads the SQL statements out of a Markdown file.

/// The statements of all ```sql blocks, in order, comments and all.
pub fn of(markdown: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut block: Option<String> = None;
    for line in markdown.lines() {
        match (&mut block, line.trim_end()) {
            (None, "```sql") => block = Some(String::new()),
            (Some(sql), "```") => {
                statements.extend(split(sql));
                block = None;
            }
            (Some(sql), line) => {
                sql.push_str(line);
                sql.push('\n');
            }
            (None, _) => {}
        }
    }
    assert!(block.is_none(), "a block of SQL has no end");
    statements
}

/// Cuts at each semicolon that is not within a string, a dollar-quoted body or a comment.
fn split(sql: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut within: Option<&str> = None;
    let (mut start, mut at) = (0, 0);
    while let Some(character) = sql[at..].chars().next() {
        let rest = &sql[at..];
        let mut step = character.len_utf8();
        match within {
            Some(end) if rest.starts_with(end) => {
                within = None;
                step = end.len();
            }
            Some(_) => {}
            None if rest.starts_with("--") => within = Some("\n"),
            None if rest.starts_with('\'') => within = Some("'"),
            None if rest.starts_with("$$") => {
                within = Some("$$");
                step = 2;
            }
            None if character == ';' => {
                statements.push(sql[start..=at].trim().to_owned());
                start = at + 1;
            }
            None => {}
        }
        at += step;
    }
    assert!(sql[start..].trim().is_empty(), "a statement has no semicolon: {}", &sql[start..]);
    statements
}

#[test]
fn semicolons_within_strings_bodies_and_comments_end_nothing() {
    let markdown = "text\n```sql\nselect ';', $$ a; b $$; -- c; d\nselect 'it''s;';\n```\n```bash\nls;\n```\n```sql\nselect 1;\n```\n";

    assert_eq!(of(markdown), ["select ';', $$ a; b $$;", "-- c; d\nselect 'it''s;';", "select 1;"]);
}
