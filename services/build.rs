//! A new migration is a new file: without this cargo would not embed it again.

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
