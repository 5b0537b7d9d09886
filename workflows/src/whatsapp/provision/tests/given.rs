use super::script::{TOKEN, USER, input};
use crate::{
    outcome::{Memory, StepInput},
    secret::Secret,
    whatsapp::{
        names::InstanceStatus,
        provision::{Facts, Given},
    },
};

#[test]
fn a_fresh_instance_has_our_token_and_no_past() {
    let given = Given::of(&StepInput { exclusive_before: true, ..input(Memory::default()) });

    assert_eq!((given.instance.as_str(), given.token), (format!("user_{USER}").as_str(), Secret::new(TOKEN)));
    assert_eq!((given.created_before, given.paired_before, given.imported), (true, false, false));
}

#[test]
fn what_one_step_learns_the_next_one_is_given() {
    let learnt = Facts {
        token: Some(Secret::new("their-token-1")),
        status: Some(InstanceStatus::Connected),
        ..Facts::default()
    };
    let mut memory = Memory::default().with("imported", true);
    memory.merge(&learnt.into());
    // A later status says nothing about the pairing that there was.
    memory.merge(&Facts { status: Some(InstanceStatus::Disconnected), ..Facts::default() }.into());

    let given = Given::of(&input(memory));

    assert_eq!(given.token, Secret::new("their-token-1"));
    assert_eq!((given.paired_before, given.imported), (true, true));
}
