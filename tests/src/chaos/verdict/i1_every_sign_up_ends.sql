-- I1: every committed sign-up reaches ready, dead or cancelled.
select 'user ' || users.id || ' has ' || coalesce('a run that is ' || run.state, 'no run')
from auth.users
left join sluice.run on run.subject = users.id::text
where run.id is null
  or run.state not in ('succeeded', 'dead', 'cancelled')
