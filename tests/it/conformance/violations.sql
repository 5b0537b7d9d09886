-- What the ledger's rows say against I2 and I6, a line each.
with live as (
  select run_id, count(*) as steps
  from sluice.step
  where state = 'running'
    or (state = 'due' and due_at is not null)
  group by run_id
)
select format('I2: %s is %s, its turn is %s, and %s of its steps live', run.id, run.state, resource.run_id,
  coalesce(live.steps, 0))
from sluice.run
join sluice.resource on resource.name = run.resource
left join live on live.run_id = run.id
where coalesce(live.steps, 0) <> case when run.state = 'active' and resource.run_id = run.id then 1 else 0 end

union all

select format('I2: nobody has the turn on %s, where %s is active', resource.name, run.id)
from sluice.run
join sluice.resource on resource.name = run.resource
where run.state = 'active'
  and not exists (select from sluice.run as turn where turn.id = resource.run_id and turn.state = 'active')

union all

select format('I2: %s waits for its turn: %s, which is that of %s', run.id, run.waits, resource.run_id)
from sluice.run
join sluice.resource on resource.name = run.resource
where run.waits <> (run.state = 'active' and resource.run_id is distinct from run.id)

union all

select format('I6: %s at %s was claimed %s times and ended %s times', step.run_id, step.position, step.attempts,
  count(attempt.id))
from sluice.step
left join sluice.attempt
  on attempt.run_id = step.run_id
  and attempt.position = step.position
group by step.run_id, step.position
having step.attempts <> count(attempt.id) + case when step.state = 'running' then 1 else 0 end

union all

select format('I6: %s is %s and has %s open dead letters', run.id, run.state, count(letter.id))
from sluice.run
left join sluice.dead_letter as letter
  on letter.run_id = run.id
  and letter.resolved_at is null
group by run.id
having count(letter.id) <> case when run.state = 'dead' then 1 else 0 end

union all

select format('I6: %s is %s and no event says so', run.id, run.state)
from sluice.run
where run.state <> 'active'
  and not (run.internal and run.state = 'succeeded')
  and not exists (
    select from sluice.event
    where event.run_id = run.id
      and event.routing_key = run.workflow || '.' || run.state
  )
