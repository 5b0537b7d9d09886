//! The guards of the protocol by name, so that a test can take one away.

/// What the model may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Guard {
    /// A settle compares the token.
    Fencing,
    /// A claim draws a token that nobody ever had.
    FreshTokens,
    /// A claim needs `due`.
    ClaimState,
    /// A claim compares the generation.
    Generation,
    /// A rescue needs the expiry still to hold when it writes.
    RescueExpiry,
    /// Claims wait until no create can be under way.
    BusyMark,
    /// A create that was claimed before is read back before another is sent.
    ReadBack,
    /// Absent is only what the API's database says: its memory may not have loaded a row.
    DatabasesWord,
    /// A name that a failed create left in the API's memory is deleted there.
    Discard,
    /// A create is sent only with enough lease left.
    LeaseCheck,
    /// A step that keeps losing its workers dies.
    CrashLimit,
    /// Leases that ran out are looked for.
    Rescue,
    /// Due steps are looked for and pushed, whatever became of their hints.
    Scan,
    /// Where a create outlived its lease, the instance is looked at again; nor does anybody else
    /// look for it.
    SecondLook,
    /// Instances that succeeded runs have lost are looked for. The program has no such duty yet.
    Reconcile,
}
