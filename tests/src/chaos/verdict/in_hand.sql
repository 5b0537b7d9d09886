-- The names whose create the worker of this process had in hand between these moments. A worker's
-- name ends with its process id and a random number.
select distinct run.resource
from sluice.attempt
join sluice.run on run.id = attempt.run_id
where attempt.step = 'create-instance'
  and attempt.worker ~ ('-' || $1 || '-[0-9a-f]+$')
  and tstzrange(attempt.started_at, attempt.ended_at, '[]') && tstzrange(to_timestamp($2), to_timestamp($3), '[]')
