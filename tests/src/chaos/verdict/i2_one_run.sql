-- I2: at most one unfinished run per subject and workflow, one run at a time per resource; here
-- nobody asked for a second run, so there is none but for second looks, and for rows that were set
-- to pending by hand.
select subject || ' has ' || count(*) || ' runs of ' || workflow
from sluice.run
where not internal
group by workflow, subject
having count(*) > 1 + (
  select count(*)
  from sluice.audit
  where audit.action = 'queue.update'
    and audit.subject = run.subject
    and audit.detail -> 'after' ->> 'status' = 'pending'
)
union all
select subject || ' has ' || count(*) || ' unfinished runs of ' || workflow
from sluice.run
where state in ('active', 'dead')
group by workflow, subject
having count(*) > 1
union all
select 'resource ' || run.resource || ' is worked on by ' || count(*) || ' steps at a time'
from sluice.run
join sluice.step on step.run_id = run.id
where step.state = 'running'
  or (step.state = 'due' and step.due_at is not null)
group by run.resource
having count(*) > 1
