//! The guards of the protocol by name, so that a test can take one away.

/// What the model may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Guard {
    /// A settle compares the token.
    Fencing,
    /// A dispatch draws a token that nobody ever had.
    FreshTokens,
    /// A claim needs `dispatched`.
    ClaimState,
    /// A rescue needs the expiry still to hold when it writes.
    RescueExpiry,
    /// Claims wait until no create can be under way.
    BusyMark,
    /// A create that was claimed before is read back before another is sent.
    ReadBack,
    /// A create is sent only with enough lease left.
    LeaseCheck,
    /// A step that keeps losing its workers dies.
    CrashLimit,
    /// Leases that ran out are looked for.
    Rescue,
    /// Dispatched steps that Redis has no hint of are looked for.
    StrayRecovery,
    /// Where a create outlived its lease, the instance is looked at again; nor does anybody else look for it.
    SecondLook,
    /// Instances that succeeded runs have lost are looked for. The program has no such duty yet.
    Reconcile,
}
