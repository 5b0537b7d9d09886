select count(*)
from auth.users
where not exists (
  select from sluice.run
  where run.subject = users.id::text
    and run.state in ('succeeded', 'dead', 'cancelled')
)
