use super::*;

#[test]
fn a_fresh_instance_has_our_token_and_no_past() {
    let given = Given::of(&StepInput { exclusive_before: true, ..input(Memory::default()) });

    assert_eq!((given.instance.as_str(), given.token), (format!("user_{USER}").as_str(), Secret::new(TOKEN)));
    assert_eq!((given.created_before, given.paired_before, given.imported), (true, false, false));
}

#[test]
fn what_one_step_learns_the_next_one_is_given() {
    let open = Listed { status: Some(ApiState::Open), ..row(THEIRS) };
    let mut memory = Memory::default().with("imported", true);
    memory.merge(create(&again(), listed(open)).memory());
    // A later status says nothing about the pairing that there was.
    let closed = Listed { status: Some(ApiState::Close), ..row(THEIRS) };
    memory.merge(create(&again(), listed(closed)).memory());

    let given = Given::of(&input(memory));

    assert_eq!(given.token, Secret::new(THEIRS));
    assert_eq!((given.paired_before, given.imported, given.connecting_before), (true, true, true));
}
