-- A minimal database as Supabase gives one, run by the cluster's superuser on a fresh database: the
-- roles, the auth schema, the default grants, the publication, and the profiles table of Supabase's
-- own template. `app_postgres` is what Supabase calls postgres: not a superuser, may create roles,
-- owns the app's tables.

do $$
declare
  wanted record;
begin
  for wanted in
    select *
    from (
      values
        ('anon', 'nologin'),
        ('authenticated', 'nologin'),
        ('service_role', 'nologin bypassrls'),
        ('authenticator', 'login noinherit'),
        ('supabase_auth_admin', 'login noinherit createrole'),
        ('app_postgres', 'login createrole createdb bypassrls')
    ) as roles (name, attributes)
  loop
    -- Roles belong to the cluster: tests beside this one may be making them too.
    begin
      execute format('create role %I %s', wanted.name, wanted.attributes);
    exception
      when duplicate_object or unique_violation then
        null;
    end;
  end loop;
  execute format('alter database %I owner to app_postgres', current_database());
end
$$;

create schema auth
  authorization supabase_auth_admin;

create table auth.users (
  id uuid primary key default gen_random_uuid(),
  email text unique,
  raw_user_meta_data jsonb,
  created_at timestamptz not null default now()
);

alter table auth.users
  owner to supabase_auth_admin;

create function auth.uid()
returns uuid
language sql
stable
as $$
  select nullif(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub', '')::uuid
$$;

grant usage
  on schema auth
  to anon, authenticated, service_role, app_postgres;
grant all
  on auth.users
  to app_postgres;
grant usage
  on schema public
  to anon, authenticated, service_role;
alter default privileges for role app_postgres in schema public
  grant all
  on tables
  to anon, authenticated, service_role;
alter default privileges for role app_postgres in schema public
  grant all
  on functions
  to anon, authenticated, service_role;

set role app_postgres;

create publication supabase_realtime;

create table public.profiles (
  id uuid primary key references auth.users (id) on delete cascade,
  email text,
  full_name text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

alter table public.profiles
  enable row level security;

create policy "People read their own profile"
  on public.profiles
  for select
  to authenticated
  using ((select auth.uid()) = id);

create function public.handle_new_user()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
  insert into public.profiles (id, email, full_name)
  values (new.id, new.email, new.raw_user_meta_data ->> 'full_name');
  return new;
end
$$;

create trigger on_auth_user_created
  after insert on auth.users
  for each row
  execute function public.handle_new_user();

reset role;
